package miniworker

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// fileCommands are the files behind GITHUB_OUTPUT and its like, one set for
// each step.
type fileCommands map[string]string // variable: host path

func (w *Worker) newFileCommands() (fileCommands, error) {
	commands := fileCommands{}
	id := guid()
	for variable, kind := range map[string]string{
		"GITHUB_ENV": "set_env_", "GITHUB_PATH": "add_path_", "GITHUB_OUTPUT": "set_output_",
		"GITHUB_STATE": "save_state_", "GITHUB_STEP_SUMMARY": "step_summary_",
	} {
		path := w.path("_temp/_runner_file_commands/" + kind + id)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return nil, fmt.Errorf("cannot make file commands: %w", err)
		}
		commands[variable] = path
	}
	return commands, nil
}

// github is the context that becomes GITHUB_*, with host paths.
func (w *Worker) github() map[string]string {
	owner, _, _ := strings.Cut(w.opt.Repository, "/")
	return map[string]string{
		"GITHUB_ACTION":           "__run",
		"GITHUB_ACTOR":            owner,
		"GITHUB_API_URL":          "https://api.github.com",
		"GITHUB_BASE_REF":         "",
		"GITHUB_EVENT_NAME":       "push",
		"GITHUB_EVENT_PATH":       w.path("_temp/_github_workflow/event.json"),
		"GITHUB_GRAPHQL_URL":      "https://api.github.com/graphql",
		"GITHUB_HEAD_REF":         "",
		"GITHUB_JOB":              w.opt.Job,
		"GITHUB_REF":              "refs/heads/main",
		"GITHUB_REF_NAME":         "main",
		"GITHUB_REF_TYPE":         "branch",
		"GITHUB_REPOSITORY":       w.opt.Repository,
		"GITHUB_REPOSITORY_OWNER": owner,
		"GITHUB_RETENTION_DAYS":   "90",
		"GITHUB_RUN_ATTEMPT":      "1",
		"GITHUB_RUN_ID":           "1",
		"GITHUB_RUN_NUMBER":       "1",
		"GITHUB_SERVER_URL":       "https://github.com",
		"GITHUB_SHA":              strings.Repeat("0", 40),
		"GITHUB_TRIGGERING_ACTOR": owner,
		"GITHUB_WORKFLOW":         "scripted",
		"GITHUB_WORKSPACE":        w.workspace,
		"RUNNER_OS":               "Linux",
		"RUNNER_ARCH":             arch(),
		"RUNNER_NAME":             w.opt.RunnerName,
		"RUNNER_ENVIRONMENT":      "self-hosted",
		"RUNNER_TEMP":             w.path("_temp"),
		"RUNNER_TOOL_CACHE":       w.tools(),
		"RUNNER_WORKSPACE":        filepath.Dir(w.workspace),
	}
}

func arch() string {
	if runtime.GOARCH == "arm64" {
		return "ARM64"
	}
	return "X64"
}

// stepEnv is the environment of a step before paths are translated. It has no
// HOME, PATH, CI or GITHUB_ACTIONS.
func (w *Worker) stepEnv(step map[string]string, commands fileCommands) map[string]string {
	env := map[string]string{}
	w.mu.Lock()
	maps.Copy(env, w.env)
	w.mu.Unlock()
	maps.Copy(env, step)
	maps.Copy(env, w.github())
	maps.Copy(env, commands)
	return env
}

// hookEnv is the environment of the hook itself: the worker's, GITHUB_* and
// RUNNER_* with host paths, and GITHUB_PATH before PATH. Variables of the job
// are not in it.
func (w *Worker) hookEnv(commands fileCommands) []string {
	env := append([]string{}, w.opt.Env...)
	for _, more := range []map[string]string{w.github(), commands} {
		for k, v := range more {
			env = append(env, k+"="+v)
		}
	}
	env = append(env, "RUNNER_TRACKING_ID="+w.tracking, "GITHUB_ACTIONS=true")
	if lookup(env, "CI") == "" {
		env = append(env, "CI=true")
	}
	return append(env, "PATH="+strings.Join(append(w.prepended(), lookup(w.opt.Env, "PATH")), ":"))
}

// writeScript puts a run: step into _temp and says how to run it; {0} in the
// arguments stands for the script.
func (w *Worker) writeScript(step Step) (script, program, arguments string, err error) {
	extension := ""
	switch step.Shell {
	case "":
		program, arguments, extension = "sh", "-e {0}", ".sh"
	case "bash":
		program, arguments, extension = "bash", "--noprofile --norc -e -o pipefail {0}", ".sh"
	case "sh":
		program, arguments, extension = "sh", "-e {0}", ".sh"
	case "python":
		program, arguments, extension = "python", "{0}", ".py"
	case "pwsh":
		program, arguments, extension = "pwsh", `-command ". '{0}'"`, ".ps1"
	default:
		program, arguments, _ = strings.Cut(step.Shell, " ")
		if !strings.Contains(arguments, "{0}") {
			return "", "", "", runnerErrorf("Invalid shell option. Shell must be a valid built-in (bash, sh, cmd, " +
				"powershell, pwsh) or a format string containing '{0}'")
		}
	}

	script = w.path("_temp/" + guid() + extension)
	contents := strings.ReplaceAll(step.Run, "\r\n", "\n")
	if !strings.HasSuffix(contents, "\n") {
		contents += "\n"
	}
	return script, program, arguments, os.WriteFile(script, []byte(contents), 0o644)
}

// hostScript is a script and how to run it; {0} in arguments stands for it.
type hostScript struct{ program, arguments, path string }

// runOnHost runs a step of a job that has no container. header begins its log.
func (w *Worker) runOnHost(
	ctx context.Context, name string, script hostScript, header []string, dir string, env map[string]string,
) StepResult {
	started := time.Now()
	result := StepResult{Name: name, Conclusion: Success}
	all := w.hookEnv(nil)
	for k, v := range env {
		all = append(all, k+"="+v)
	}
	path := lookup(all, "PATH")
	arguments := strings.Fields(strings.ReplaceAll(script.arguments, "{0}", script.path))
	program := script.program
	if !filepath.IsAbs(program) {
		program = which(program, path)
	}
	if program == "" {
		return failedStep(name, fmt.Errorf("%s: command not found", script.program))
	}
	argv := append([]string{program}, arguments...)

	for _, line := range header {
		w.line(strings.ReplaceAll(line, "{program}", program))
	}

	var err error
	result.Exit, err = w.invoke(ctx, process{argv: argv, dir: dir, env: all}, &result.Output)
	if err == nil && result.Exit != 0 {
		err = runnerErrorf("Process completed with exit code %d.", result.Exit)
	}
	if err != nil {
		result.Conclusion = Failure
		result.Errors = append(result.Errors, err.Error())
		w.line("##[error]" + err.Error())
	}
	result.Duration = time.Since(started)
	return result
}

// scriptHeader begins the log of a run: step.
func scriptHeader(step Step, script hostScript) []string {
	lines := strings.Split(strings.TrimRight(step.Run, "\n"), "\n")
	header := append([]string{"##[group]Run " + lines[0]}, lines...)
	return append(header, "shell: {program} "+script.arguments, "##[endgroup]")
}

// collect takes what the step wrote to its file commands.
func (w *Worker) collect(commands fileCommands, result *StepResult) {
	env, err := readPairs(commands["GITHUB_ENV"])
	outputs, err2 := readPairs(commands["GITHUB_OUTPUT"])
	paths, err3 := os.ReadFile(commands["GITHUB_PATH"])
	for _, err := range []error{err, err2, err3} {
		if err != nil {
			result.Conclusion = Failure
			result.Errors = append(result.Errors, err.Error())
			w.line("##[error]" + err.Error())
		}
	}

	result.Summary = w.readSummary(commands["GITHUB_STEP_SUMMARY"])
	if len(outputs) > 0 {
		result.Outputs = outputs
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(w.env, env)
	for _, line := range strings.Split(string(paths), "\n") {
		if line = strings.TrimRight(line, "\r"); line != "" {
			w.prependPath = append(w.prependPath, line)
		}
	}
}

// readPairs reads KEY=VALUE lines and KEY<<DELIMITER blocks.
func readPairs(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pairs := map[string]string{}
	lines := strings.Split(string(data), "\n")

	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if line == "" {
			continue
		}

		key, value, hasValue := strings.Cut(line, "=")
		name, delimiter, hasBlock := strings.Cut(line, "<<")
		switch {
		case hasBlock && (!hasValue || len(name) < len(key)):
			end := i + 1
			for end < len(lines) && lines[end] != delimiter {
				end++
			}
			if end == len(lines) {
				return nil, runnerErrorf("Invalid value. Matching delimiter not found '%s'", delimiter)
			}
			pairs[name], i = strings.Join(lines[i+1:end], "\n"), end
		case hasValue:
			pairs[key] = value
		default:
			return nil, runnerErrorf("Invalid format '%s'", line)
		}
	}
	return pairs, nil
}
