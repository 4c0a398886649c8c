package miniworker

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// RunAction runs a file of a JavaScript action with the runner's node.js, as
// NodeScriptActionHandler does: that for musl if prepare_job said so. Each file
// of an action gets the state that the one before has saved.
func (w *Worker) RunAction(ctx context.Context, step Step) StepResult {
	node := "node20"
	alpine := !w.onHost() && w.usesDocker() && w.dockerOfJob().alpine(ctx)
	w.mu.Lock()
	if w.alpine || alpine {
		node = "node20_alpine"
	}
	env := map[string]string{}
	for key, value := range w.states[step.Action] {
		env["STATE_"+key] = value
	}
	w.mu.Unlock()

	maps.Copy(env, step.Env)
	for name, value := range step.With {
		env["INPUT_"+strings.ToUpper(strings.ReplaceAll(name, " ", "_"))] = value
	}

	file := w.path(filepath.Join("_actions", step.Action, step.Main))
	commands, err := w.newFileCommands()
	if err != nil {
		return failedStep(step.Name, err)
	}

	var result StepResult
	if w.onHost() {
		program := filepath.Join(w.opt.Root, "externals", node, "bin/node")
		header := []string{"##[group]Run " + step.Action, "##[endgroup]"}
		result = w.runOnHost(ctx, step.Name, hostScript{program, "{0}", file}, header, w.workspace,
			w.stepEnv(env, commands))
		w.collect(commands, &result)
	} else {
		result = w.runArgs(ctx, step.Name, "/__e/"+node+"/bin/node", w.jobPaths().translate(file), env, commands)
	}
	if state, err := readPairs(commands["GITHUB_STATE"]); err == nil {
		w.mu.Lock()
		if w.states[step.Action] == nil {
			w.states[step.Action] = map[string]string{}
		}
		maps.Copy(w.states[step.Action], state)
		w.mu.Unlock()
	}
	return result
}

// maskCommand begins a line that names a secret.
const maskCommand = "::add-mask::"

// mask hides secrets in a line of output, and learns new ones from it
// (SecretMasker, AddMaskCommandExtension).
func (w *Worker) mask(line string) string {
	w.maskMu.Lock()
	defer w.maskMu.Unlock()
	if secret, ok := strings.CutPrefix(line, maskCommand); ok && secret != "" {
		w.masks = append(w.masks, strings.NewReplacer("%25", "%", "%0D", "\r", "%0A", "\n").Replace(secret))
		return maskCommand + "***"
	}
	for _, secret := range w.masks {
		line = strings.ReplaceAll(line, secret, "***")
	}
	return line
}

// maxSummary is what the runner uploads of a step's summary, in bytes.
const maxSummary = 1 << 20

// readSummary returns a step's summary. As the runner does, it follows links, and
// writes what it uploads to a file beside the summary (FileCommandManager.cs).
func (w *Worker) readSummary(file string) string {
	data, err := os.ReadFile(file)
	if err != nil || len(data) == 0 || len(data) > maxSummary {
		return ""
	}
	summary := w.mask(string(data))
	if err := os.WriteFile(file+"-scrubbed", []byte(summary), 0o644); err != nil {
		w.line("##[error]" + err.Error())
	}
	return summary
}
