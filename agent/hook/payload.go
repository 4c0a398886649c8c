package hook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
)

// maxPayload bounds the standard input that is read. The runner puts a job's
// whole environment there, which the kernel bounds to some MiB.
const maxPayload = 16 << 20

// The commands of the protocol.
const (
	prepareJob    = "prepare_job"
	scriptStep    = "run_script_step"
	containerStep = "run_container_step"
	cleanupJob    = "cleanup_job"
)

// Payload is one request of the runner.
type Payload struct {
	Command      string
	ResponseFile string // absolute; "" if the runner wants no answer
	Job          string // the broker's id of the job; "" if none was prepared

	Prepare   *Prepare   // of prepare_job
	Step      *Step      // of run_script_step
	Container *Container // of run_container_step
}

// Prepare are the arguments of prepare_job.
type Prepare struct {
	Container *Container // nil for a job that has services only
	Services  []*Container
}

// Container is a container: that of a job, a service, or a step's own.
type Container struct {
	path string // in the payload, for errors

	ContextName   string // of a service in the workflow; the actions runner 2.336.0 does not send it
	Image         string
	Dockerfile    string                 // path on the host, of a step's container, in place of Image
	Credentials   *brokerapi.Credentials // nil for an image that everybody may pull
	EntryPoint    string                 // "" for the image's
	Args          []string               // split at spaces, quotes left as they were
	Dir           string                 // "" for the image's
	Options       string                 // container.options, for docker create
	Env           map[string]string
	Ports         []string
	SystemVolumes []Volume
	UserVolumes   []Volume
}

// Volume is a directory of the host and where it is to appear.
type Volume struct {
	Source   string // "" for an anonymous volume, no slash in the name of a volume
	Target   string // absolute
	ReadOnly bool
}

// Step are the arguments of run_script_step.
type Step struct {
	EntryPoint  string
	Args        []string // split at spaces, quotes left as they were
	Env         map[string]string
	PrependPath []string
	Dir         string // "" if not given
}

// Read reads a payload, the last line of r, as the reference hooks do.
func Read(r io.Reader) (*Payload, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxPayload+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read hook payload: %w", err)
	case len(data) > maxPayload:
		return nil, errors.New(
			"cannot read hook payload: standard input: is longer than 16 MiB; the job's environment is too large",
		)
	}
	data = bytes.TrimSpace(data)
	return Parse(data[bytes.LastIndexByte(data, '\n')+1:])
}

// Parse reads a payload. Members it does not know are ignored; of the others
// the first that is missing or of a wrong type is named in the error. No error
// holds a value, which might be a secret.
func Parse(line []byte) (*Payload, error) {
	if len(line) == 0 {
		return nil, errors.New(
			"cannot read hook payload: standard input: is empty; this program is started by the actions runner",
		)
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(line, new(json.RawMessage)); errors.As(err, &syntax) {
		return nil, fmt.Errorf(
			"cannot read hook payload: standard input: is not JSON at byte %d of its last line; want one object in one line",
			syntax.Offset,
		)
	}
	var first error
	p := parse(node{raw: line, first: &first}.object())
	if first != nil {
		return nil, fmt.Errorf("cannot read hook payload: %w", first)
	}
	return p, nil
}

func parse(top object) *Payload {
	command := top.get("command")
	args := top.get("args").object()
	p := &Payload{Command: command.text(), ResponseFile: top.optional("responseFile").text()}
	if p.ResponseFile != "" && !path.IsAbs(p.ResponseFile) {
		top.get("responseFile").fail("is not an absolute path; want the path the runner made")
	}
	if state := top.optional("state"); state.raw != nil {
		p.Job = state.object().optional("job").text()
	}

	switch p.Command {
	case prepareJob:
		if p.ResponseFile == "" {
			top.get("responseFile").fail("is empty or missing; want the path the runner made")
		}
		p.Prepare = parsePrepare(args)
	case scriptStep:
		p.Step = parseStep(args)
	case containerStep:
		p.Container = parseContainer(args, "")
	case cleanupJob:
	default:
		command.fail(
			fmt.Sprintf("%.40q is unknown; want prepare_job, run_script_step, run_container_step or cleanup_job", p.Command),
		)
	}
	return p
}

func parsePrepare(args object) *Prepare {
	p := &Prepare{}
	if c := args.optional("container"); c.raw != nil {
		p.Container = parseContainer(c.object(), "container")
	}
	for i, n := range args.optional("services").list() {
		p.Services = append(p.Services, parseContainer(n.object(), fmt.Sprintf("service %d", i+1)))
	}
	return p
}

func parseContainer(o object, path string) *Container {
	image := o.optional("image")
	c := &Container{
		path:          path,
		ContextName:   o.optional("contextName").text(),
		Image:         image.text(),
		Dockerfile:    o.optional("dockerfile").text(),
		EntryPoint:    o.optional("entryPoint").text(),
		Args:          o.optional("entryPointArgs").texts(),
		Dir:           o.optional("workingDirectory").text(),
		Options:       o.optional("createOptions").text(),
		Env:           o.optional("environmentVariables").env(),
		Ports:         o.optional("portMappings").texts(),
		SystemVolumes: parseVolumes(o.optional("systemMountVolumes")),
		UserVolumes:   parseVolumes(o.optional("userMountVolumes")),
	}
	if c.Image == "" && c.Dockerfile == "" {
		image.fail("is empty or missing; want the name of an image")
	}
	if r := o.optional("registry"); r.raw != nil {
		c.Credentials = parseRegistry(r.object())
	}
	return c
}

// parseRegistry returns nil for a registry without a user: there is nothing to
// log in with.
func parseRegistry(o object) *brokerapi.Credentials {
	c := &brokerapi.Credentials{
		Server:   o.optional("serverUrl").text(),
		Username: o.optional("username").text(),
		Password: o.optional("password").text(),
	}
	if c.Username == "" {
		return nil
	}
	return c
}

func parseVolumes(n node) []Volume {
	var volumes []Volume
	for _, e := range n.list() {
		o := e.object()
		target := o.get("targetVolumePath")
		v := Volume{
			Source:   o.optional("sourceVolumePath").text(),
			Target:   target.text(),
			ReadOnly: o.optional("readOnly").boolean(),
		}
		if !path.IsAbs(v.Target) {
			target.fail("is not an absolute path; want one in the container")
		}
		volumes = append(volumes, v)
	}
	return volumes
}

func parseStep(args object) *Step {
	return &Step{
		EntryPoint:  args.get("entryPoint").text(),
		Args:        args.optional("entryPointArgs").texts(),
		Env:         args.optional("environmentVariables").env(),
		PrependPath: args.optional("prependPath").textOrTexts(),
		Dir:         args.optional("workingDirectory").text(),
	}
}
