// Splits lines: reads one JSON array of them, and writes one array of their words, null for a line with an error.
import { readFileSync } from 'node:fs'
import { split } from 'shlex'

const results = JSON.parse(readFileSync(0, 'utf8')).map(line => {
  try {
    return split(line)
  } catch {
    return null
  }
})
process.stdout.write(JSON.stringify(results))
