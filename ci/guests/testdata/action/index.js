// The main file of an action that uses GitHub's own toolkit.
const core = require('@actions/core')
const exec = require('@actions/exec')
const tc = require('@actions/tool-cache')
const fs = require('fs')
const path = require('path')

async function main() {
  const who = core.getInput('who to greet', {required: true})
  core.setOutput('greeting', `hello ${who}\nand a second line`)
  core.exportVariable('FROM_ACTION', 'exported value')
  core.setSecret('the-secret-of-the-action')
  core.info('it is the-secret-of-the-action')
  core.saveState('left', 'for the post file')
  core.warning('a warning')
  await core.group('a group', async () => core.info('in the group'))
  await core.summary.addHeading('Result', 2).addRaw('all is well').write()

  const bin = path.join(process.env.GITHUB_WORKSPACE, 'bin')
  fs.mkdirSync(bin)
  fs.writeFileSync(path.join(bin, 'greet'), '#!/bin/sh\necho greetings\n', {mode: 0o755})
  core.addPath(bin)

  let out = ''
  const status = await exec.exec('sh', ['-c', 'pwd; echo "$1"; exit 5', 'sh', 'two words'], {
    cwd: '/tmp',
    ignoreReturnCode: true,
    silent: true,
    listeners: {stdout: data => (out += data.toString())}
  })
  core.setOutput('exec', `${status}: ${out.trim().split('\n').join(', ')}`)

  const source = fs.mkdtempSync(path.join(process.env.RUNNER_TEMP, 'tool-'))
  fs.writeFileSync(path.join(source, 'tool.txt'), 'the tool')
  const archive = path.join(process.env.RUNNER_TEMP, 'tool.tar.gz')
  await exec.exec('tar', ['-czf', archive, '-C', source, '.'], {silent: true})
  const extracted = await tc.extractTar(archive)
  await tc.cacheDir(extracted, 'my-tool', '1.2.3')
  core.setOutput('tool', tc.find('my-tool', '1.x'))
}

main().catch(error => core.setFailed(error))
