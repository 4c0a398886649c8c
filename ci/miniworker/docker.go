package miniworker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// dockerJob is what the worker knows of a job's containers where no hook is set:
// ContainerOperationProvider.cs and DockerCommandManager.cs.
type dockerJob struct {
	worker   *Worker
	label    string // DockerInstanceLabel
	network  string
	job      *dockerContainer // nil if the job has none
	services []*dockerContainer
	path     string            // PATH of the job's container
	built    map[string]string // images of actions, by their Dockerfiles
}

// dockerContainer is ContainerInfo.
type dockerContainer struct {
	*Container
	id, name, alias string
	failed          bool // FailedInitialization
}

// usesDocker reports whether containers are asked of docker.
func (w *Worker) usesDocker() bool { return w.opt.Hook == "" }

// prepareDocker is StartContainersAsync.
func (w *Worker) prepareDocker(ctx context.Context, container *Container, services []Container) StepResult {
	d := w.dockerOfJob()
	w.mu.Lock()
	w.container = container
	w.mu.Unlock()
	return w.dockerStep("Initialize containers", func(result *StepResult) error {
		return d.start(ctx, container, services, result)
	})
}

// dockerStep runs one of the worker's own steps. An exception of the runner is its
// error.
func (w *Worker) dockerStep(name string, do func(result *StepResult) error) StepResult {
	started := time.Now()
	result := StepResult{Name: name, Conclusion: Success}
	if err := do(&result); err != nil {
		result.Conclusion = Failure
		result.Errors = append(result.Errors, err.Error())
		w.line("##[error]" + err.Error())
	}
	result.Duration = time.Since(started)
	return result
}

func (d *dockerJob) start(ctx context.Context, container *Container, services []Container, result *StepResult) error {
	for _, side := range []string{"Server", "Client"} {
		lines, err := d.outputs(ctx, "version", "--format '{{."+side+".APIVersion}}'", result)
		if err != nil || len(lines) == 0 {
			return errors.Join(err, runnerErrorf("Value cannot be null. (Parameter 'Docker.%s.Version')", side))
		}
	}
	stale, err := d.outputs(ctx, "ps", `--all --quiet --no-trunc --filter "label=`+d.label+`"`, result)
	if err != nil {
		return err
	}
	for _, id := range stale {
		if _, err := d.run(ctx, "rm", "--force "+id, result); err != nil {
			return err
		}
	}
	if _, err := d.run(ctx, "network", `prune --force --filter "label=`+d.label+`"`, result); err != nil {
		return err
	}
	network := "github_network_" + hexID()
	if status, err := d.run(ctx, "network", "create --label "+d.label+" "+network, result); err != nil || status != 0 {
		return errors.Join(err, runnerErrorf("Docker network create failed with exit code %d", status))
	}
	d.network = network

	if container != nil {
		d.job = &dockerContainer{Container: container}
		if err := d.startContainer(ctx, d.job, result); err != nil {
			return err
		}
	}
	for i := range services {
		alias := services[i].Key
		if alias == "" {
			alias = fmt.Sprintf("service%d", i+1)
		}
		c := &dockerContainer{Container: &services[i], alias: alias}
		d.services = append(d.services, c)
		if err := d.startContainer(ctx, c, result); err != nil {
			return err
		}
	}
	return d.awaitHealth(ctx, result)
}

// startContainer is StartContainerAsync.
func (d *dockerJob) startContainer(ctx context.Context, c *dockerContainer, result *StepResult) error {
	config, err := d.login(ctx, c, result)
	if err != nil {
		return err
	}
	global := ""
	if config != "" {
		global = "--config " + config + " "
	}
	for try := 1; ; try++ {
		status, err := d.run(ctx, global+"pull", c.Image, result)
		if err != nil {
			return err
		}
		if status == 0 {
			break
		}
		if try == 3 {
			return runnerErrorf("Docker pull failed with exit code %d", status)
		}
	}
	if config != "" {
		if err := os.RemoveAll(config); err != nil {
			return err
		}
	}

	lines, err := d.outputs(ctx, "create", d.createOptions(c), result)
	if err != nil {
		return err
	}
	if len(lines) == 0 {
		return runnerError("Value cannot be null. (Parameter 'container.ContainerId')")
	}
	c.id = lines[0]
	if status, err := d.run(ctx, "start", c.id, result); err != nil || status != 0 {
		return errors.Join(err, runnerErrorf("Docker start fail with exit code %d", status))
	}
	return d.lookAt(ctx, c, result)
}

// lookAt finds out whether a container runs, and what the job context has of it.
func (d *dockerJob) lookAt(ctx context.Context, c *dockerContainer, result *StepResult) error {
	const format = ` --no-trunc --format "{{.ID}} {{.Status}}"`
	lines, err := d.outputs(ctx, "ps", "--all --filter id="+c.id+" --filter status=running"+format, result)
	if err == nil && (len(lines) == 0 || !strings.HasPrefix(lines[0], c.id)) {
		_, err = d.outputs(ctx, "ps", "--all --filter id="+c.id+format, result)
		if err == nil {
			_, err = d.run(ctx, "logs", "--details "+c.id, result)
		}
		d.worker.line("##[warning]Docker container " + c.id + " is not in running state.")
		result.Output = append(result.Output, "##[warning]Docker container "+c.id+" is not in running state.")
	}
	if err != nil {
		return nil // best effort
	}

	w := d.worker
	if c == d.job {
		env, err := d.outputs(ctx, "inspect", `--format "{{range .Config.Env}}{{println .}}{{end}}" `+c.id, result)
		for _, line := range env {
			if path, ok := strings.CutPrefix(line, "PATH="); ok {
				d.path = path
			}
		}
		w.mu.Lock()
		w.context.Container = ContainerContext{ID: c.id, Network: d.network}
		w.mu.Unlock()
		return err
	}
	lines, err = d.outputs(ctx, "port", c.id, result)
	ports := map[string]string{}
	for _, line := range lines { // DockerUtil.ParseDockerPort
		port, host, ok := strings.Cut(line, " -> ")
		if ok {
			number, _, _ := strings.Cut(port, "/")
			ports[number] = host[strings.LastIndexByte(host, ':')+1:]
		}
	}
	w.mu.Lock()
	w.context.Services = append(w.context.Services, ContainerContext{ID: c.id, Network: d.network, Ports: ports})
	w.mu.Unlock()
	return err
}

// login is ContainerRegistryLogin: it returns a directory with credentials.
func (d *dockerJob) login(ctx context.Context, c *dockerContainer, result *StepResult) (string, error) {
	if c.Credentials == nil || c.Credentials.Username == "" || c.Credentials.Password == "" {
		return "", nil
	}
	dir := d.worker.path("_temp/.docker_" + guid())
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	arguments := strings.Join([]string{registryOf(c.Image), "-u", c.Credentials.Username, "--password-stdin"}, " ")
	status, err := d.worker.invoke(ctx, process{
		argv: append([]string{d.program(), "--config", dir, "login"}, splitDotNet(arguments)...),
		dir:  d.worker.opt.Work, env: d.worker.hookEnv(nil), stdin: []byte(c.Credentials.Password + "\n"),
	}, &result.Output)
	if err == nil && status != 0 {
		err = runnerErrorf("Docker login for '%s' failed with exit code %d", registryOf(c.Image), status)
	}
	return dir, err
}

// createOptions is DockerCreate.
func (d *dockerJob) createOptions(c *dockerContainer) string {
	w := d.worker
	c.name = hexID() + "_" + sanitize(c.Image) + "_" + hexID()[:6]
	options := []string{"--name " + c.name, "--label " + d.label}
	if c == d.job {
		options = append(options, "--workdir "+w.jobPaths().translate(w.workspace))
	}
	options = append(options, "--network "+d.network)
	if c.alias != "" {
		options = append(options, "--network-alias "+c.alias)
	}
	for _, port := range c.Ports {
		options = append(options, "-p "+port)
	}
	options = append(options, c.Options)

	env := maps.Clone(c.Env)
	if env == nil {
		env = map[string]string{}
	}
	if c == d.job {
		env["HOME"] = "/github/home"
	}
	for _, key := range slices.Sorted(maps.Keys(env)) {
		if env[key] == "" {
			options = append(options, "-e "+escape(key))
		} else {
			options = append(options, "-e "+escape(key+"="+env[key]))
		}
	}
	options = append(options, "-e GITHUB_ACTIONS=true")
	if _, ok := env["CI"]; !ok {
		options = append(options, "-e CI=true")
	}

	mounts := newHookContainer(c.Container).UserMountVolumes
	if c == d.job {
		mounts = slices.Concat([]hookMount{w.jobContainer(c.Container).SystemMountVolumes[0]}, mounts,
			w.jobContainer(c.Container).SystemMountVolumes[1:])
	}
	for _, m := range mounts {
		options = append(options, volumeOption(m))
	}
	entrypoint, arguments := c.Entrypoint, c.Command
	if c == d.job {
		entrypoint, arguments = "tail", `"-f" "/dev/null"`
	}
	if entrypoint != "" {
		options = append(options, `--entrypoint "`+entrypoint+`"`)
	}
	return strings.Join(append(options, c.Image, arguments), " ")
}

func volumeOption(m hookMount) string {
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"` }
	option := "-v " + quote(m.TargetVolumePath)
	if value(m.SourceVolumePath) != "" {
		option = "-v " + quote(*m.SourceVolumePath) + ":" + quote(m.TargetVolumePath)
	}
	if m.ReadOnly {
		option += ":ro"
	}
	return option
}

// awaitHealth is RunContainersHealthcheck.
func (d *dockerJob) awaitHealth(ctx context.Context, result *StepResult) error {
	const format = `--format="{{if .Config.Healthcheck}}{{print .State.Health.Status}}{{end}}" `
	var unhealthy []*dockerContainer
	for _, c := range d.services {
		for wait := 2 * time.Second; ; wait = min(2*wait, 32*time.Second) {
			lines, err := d.outputs(ctx, "inspect", format+c.id, result)
			if err != nil {
				return err
			}
			if len(lines) > 0 && lines[0] == "starting" {
				result.Output = append(result.Output, c.alias+" service is starting, waiting to check again.")
				select {
				case <-ctx.Done():
					return runnerError("The operation was canceled.")
				case <-time.After(wait):
				}
				continue
			}
			if len(lines) > 0 && lines[0] != "" && lines[0] != "healthy" {
				unhealthy = append(unhealthy, c)
			}
			break
		}
	}
	if len(unhealthy) == 0 {
		return nil
	}

	for _, c := range unhealthy {
		if _, err := d.run(ctx, "logs", "--details "+c.id, result); err != nil {
			return err
		}
		result.Errors = append(result.Errors, "Failed to initialize container "+c.Image)
		c.failed = true
	}
	return runnerError("One or more containers failed to start.")
}

// stop is StopContainersAsync. A docker that fails is a warning.
func (d *dockerJob) stop(ctx context.Context, result *StepResult) error {
	for _, c := range append([]*dockerContainer{d.job}, d.services...) {
		if c == nil || c.id == "" {
			continue
		}
		if c != d.job && !c.failed {
			if _, err := d.run(ctx, "logs", "--details "+c.id, result); err != nil {
				return err
			}
		}
		status, err := d.run(ctx, "rm", "--force "+c.id, result)
		if err != nil {
			return err
		}
		if status != 0 {
			result.Output = append(result.Output, fmt.Sprintf("##[warning]Docker rm fail with exit code %d", status))
		}
	}
	if d.network == "" {
		return nil
	}
	_, err := d.run(ctx, "network", "rm "+d.network, result)
	return err
}

// exec runs a step in the job's container: ContainerStepHost.ExecuteAsync.
func (d *dockerJob) exec(
	ctx context.Context, name, program, arguments, dir string, env map[string]string,
) StepResult {
	w := d.worker
	options := []string{"-i", "--workdir " + w.jobPaths().translate(dir)}
	for _, key := range slices.Sorted(maps.Keys(env)) {
		options = append(options, "-e "+escape(key))
	}
	if prepended := strings.Join(w.prepended(), ":"); prepended != "" {
		if d.path != "" {
			prepended += ":" + d.path
		}
		options = append(options, `-e PATH="`+prepended+`"`)
	}
	line := strings.Join(append(options, d.job.id, program, arguments), " ")
	return w.dockerProcess(ctx, name, "exec", line, w.jobPaths().translateAll(env))
}

// runContainer runs a container action: DockerRun.
func (d *dockerJob) runContainer(ctx context.Context, name string, c *Container, image string,
	env map[string]string) StepResult {
	w := d.worker
	options := []string{"--name " + sanitize(image) + "_" + hexID()[:6], "--label " + d.label,
		"--workdir /github/workspace", "--rm"}
	env = maps.Clone(env)
	env["HOME"] = w.path("_temp/_github_home")
	for _, key := range slices.Sorted(maps.Keys(env)) {
		options = append(options, "-e "+escape(key))
	}
	options = append(options, "-e GITHUB_ACTIONS=true")
	if _, ok := env["CI"]; !ok {
		options = append(options, "-e CI=true")
	}
	if c.Entrypoint != "" {
		options = append(options, `--entrypoint "`+c.Entrypoint+`"`)
	}
	if d.network != "" {
		options = append(options, "--network "+d.network)
	}
	for _, m := range w.stepContainer(c).SystemMountVolumes {
		options = append(options, volumeOption(m))
	}
	line := strings.Join(append(options, image, c.Command), " ")
	return w.dockerProcess(ctx, name, "run", line, w.containerStepPaths().translateAll(env))
}

// dockerProcess runs a step as a process of docker. Values of its variables are in
// docker's own environment.
func (w *Worker) dockerProcess(ctx context.Context, name, verb, arguments string, env map[string]string) StepResult {
	started := time.Now()
	result := StepResult{Name: name, Conclusion: Success}
	all := w.hookEnv(nil)
	for key, value := range env {
		all = append(all, key+"="+value)
	}
	d := w.dockerOfJob()
	var err error
	result.Exit, err = w.invoke(ctx, process{
		argv: append([]string{d.program(), verb}, splitDotNet(arguments)...), dir: w.opt.Work, env: all,
	}, &result.Output)

	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		result.Conclusion = Failure
		result.Errors = append(result.Errors, fmt.Sprintf("The action '%s' has timed out.", name))
	case err != nil && ctx.Err() != nil:
		result.Conclusion = Cancelled
		result.Errors = append(result.Errors, "The operation was canceled.")
	case err == nil && result.Exit != 0:
		err = runnerErrorf("Process completed with exit code %d.", result.Exit)
		fallthrough
	case err != nil:
		result.Conclusion = Failure
		result.Errors = append(result.Errors, err.Error())
	}
	for _, e := range result.Errors {
		w.line("##[error]" + e)
	}
	result.Duration = time.Since(started)
	return result
}

// dockerOfJob returns what is known of the job's containers: for a container step
// of a job that has none, nothing.
func (w *Worker) dockerOfJob() *dockerJob {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.docker == nil {
		w.docker = &dockerJob{worker: w, label: "a1b2c3"}
	}
	return w.docker
}

// runDockerAction is ContainerActionHandler without hooks.
func (w *Worker) runDockerAction(ctx context.Context, step Step, env map[string]string) StepResult {
	d := w.dockerOfJob()
	image := step.Uses.image()
	if step.Uses.Dockerfile != "" {
		image = d.built[step.Uses.Dockerfile]
	}
	return d.runContainer(ctx, step.Name, step.Uses, image, env)
}

// image returns the image of an action as docker is asked for it.
func (c *Container) image() string { return strings.TrimPrefix(c.Image, "docker://") }

// prepareAction pulls or builds the image of a container action.
func (d *dockerJob) prepareAction(ctx context.Context, c *Container, result *StepResult) error {
	if c.Dockerfile == "" {
		status, err := d.run(ctx, "pull", c.image(), result)
		if err == nil && status != 0 {
			err = runnerErrorf("Docker pull failed with exit code %d", status)
		}
		return err
	}

	image := d.label + ":" + hexID()
	arguments := fmt.Sprintf(`-t %s -f "%s" "%s"`, image, c.Dockerfile, filepath.Dir(c.Dockerfile))
	status, err := d.run(ctx, "build", arguments, result)
	if err == nil && status != 0 {
		err = runnerErrorf("Docker build failed with exit code %d", status)
	}
	if d.built == nil {
		d.built = map[string]string{}
	}
	d.built[c.Dockerfile] = image
	return err
}

// alpine finds out whether the job's container is Alpine Linux:
// DetermineNodeRuntimeVersion.
func (d *dockerJob) alpine(ctx context.Context) bool {
	var result StepResult
	lines, err := d.outputs(ctx, "exec", d.job.id+` sh -c "cat /etc/*release | grep ^ID"`, &result)
	return err == nil && slices.ContainsFunc(lines, func(line string) bool {
		return strings.Contains(strings.ToLower(line), "alpine")
	})
}

// program is docker as WhichUtil finds it.
func (d *dockerJob) program() string { return which("docker", lookup(d.worker.opt.Env, "PATH")) }

// run runs docker for its exit status.
func (d *dockerJob) run(ctx context.Context, verb, arguments string, result *StepResult) (int, error) {
	if d.program() == "" {
		return 0, runnerError("File not found: 'docker'")
	}
	argv := append([]string{d.program()}, splitDotNet(verb+" "+arguments)...)
	return d.worker.invoke(ctx, process{argv: argv, dir: d.worker.opt.Work, env: d.worker.hookEnv(nil)}, &result.Output)
}

// outputs runs docker for the lines on its standard output. A status other than 0
// is an error.
func (d *dockerJob) outputs(ctx context.Context, verb, arguments string, result *StepResult) ([]string, error) {
	var lines []string
	if d.program() == "" {
		return nil, runnerError("File not found: 'docker'")
	}
	argv := append([]string{d.program()}, splitDotNet(verb+" "+arguments)...)
	status, err := d.worker.invoke(ctx, process{
		argv: argv, dir: d.worker.opt.Work, env: d.worker.hookEnv(nil), stdout: &lines,
	}, &result.Output)
	if err == nil && status != 0 {
		err = runnerErrorf("Exit code %d returned from process: file name '%s', arguments '%s %s'.", status, d.program(),
			verb, arguments)
	}
	return lines, err
}

func hexID() string { return strings.ReplaceAll(guid(), "-", "") }

// sanitize is NameValidation.Sanitize: letters, digits and underscores.
func sanitize(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
			return r
		}
		return -1
	}, s)
}

// escape is DockerUtil.EscapeString.
func escape(s string) string {
	var b strings.Builder
	slashes := 0
	for _, r := range s {
		switch r {
		case '\\':
			slashes++
		case '"':
			b.WriteString(strings.Repeat(`\`, slashes+1))
			slashes = 0
		default:
			slashes = 0
		}
		b.WriteRune(r)
	}
	return `"` + b.String() + strings.Repeat(`\`, slashes) + `"`
}

// splitDotNet splits a command line as .NET does on Linux
// (ParseArgumentsIntoList of Process.Unix.cs).
func splitDotNet(line string) []string {
	var words []string
	for i := 0; i < len(line); {
		for i < len(line) && (line[i] == ' ' || line[i] == '\t') {
			i++
		}
		if i == len(line) {
			break
		}
		var word string
		word, i = nextArgument(line, i)
		words = append(words, word)
	}
	return words
}

func nextArgument(line string, i int) (string, int) {
	var word strings.Builder
	quoted := false
	for i < len(line) {
		slashes := 0
		for i < len(line) && line[i] == '\\' {
			i++
			slashes++
		}
		if slashes > 0 {
			if i >= len(line) || line[i] != '"' {
				word.WriteString(strings.Repeat(`\`, slashes))
			} else {
				word.WriteString(strings.Repeat(`\`, slashes/2))
				if slashes%2 != 0 {
					word.WriteByte('"')
					i++
				}
			}
			continue
		}

		c := line[i]
		switch {
		case c == '"' && quoted && i+1 < len(line) && line[i+1] == '"':
			word.WriteByte('"') // two quotes within quotes are one
			i++
		case c == '"':
			quoted = !quoted
		case (c == ' ' || c == '\t') && !quoted:
			return word.String(), i
		default:
			word.WriteByte(c)
		}
		i++
	}
	return word.String(), i
}
