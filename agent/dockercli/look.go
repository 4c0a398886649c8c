package dockercli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/internal/buildinfo"
)

// apiVersion is that of the Docker Engine API in whose words containers are
// described. The actions runner asks for 1.35 or newer.
const apiVersion = "1.47"

// versionInfo is what "docker version" prints.
type versionInfo struct{ Client, Server versionOf }

type versionOf struct {
	Version, APIVersion, GitCommit, GoVersion, Os, Arch string
}

func (c *call) version(_ context.Context, args []string) (int, error) {
	flags := newFlags("version")
	format := flags.StringP("format", "f", "", "")
	if err := c.parse(flags, "version", args, 0); err != nil {
		return StatusFailed, err
	}
	if !c.Everything {
		return 0, ErrElsewhere
	}

	build := buildinfo.Read()
	own := versionOf{
		Version: build.Version, APIVersion: apiVersion, GitCommit: build.Commit,
		GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH,
	}
	if *format != "" {
		return 0, printEach(c.Stdout, *format, []versionInfo{{own, own}})
	}
	_, err := fmt.Fprintf(c.Stdout, "Client: runner-shim\n Version: %s\n API version: %s\n OS/Arch: %s/%s\n\n"+
		"Server: runner-agent broker\n Version: %s\n API version: %s\n", own.Version, apiVersion, own.Os, own.Arch,
		own.Version, apiVersion)
	return 0, err
}

// list returns the containers of the job.
func (c *call) list(ctx context.Context) (brokerapi.DockerContainers, error) {
	var reply brokerapi.DockerContainers
	err := c.Broker.Docker(ctx, brokerapi.Docker{List: &struct{}{}}, &reply, nil)
	return reply, err
}

// find returns the container that a name means: an id, an unambiguous beginning of
// one, or a name.
func find(containers []brokerapi.ContainerInfo, name string) (*brokerapi.ContainerInfo, error) {
	var found *brokerapi.ContainerInfo
	for i := range containers {
		x := &containers[i]
		switch {
		case x.ID == name || strings.TrimPrefix(x.Name, "/") == strings.TrimPrefix(name, "/"):
			return x, nil
		case name != "" && strings.HasPrefix(x.ID, name) && found != nil:
			return nil, fmt.Errorf("several containers have an id that begins with %.80q", name)
		case name != "" && strings.HasPrefix(x.ID, name):
			found = x
		}
	}
	if found == nil {
		return nil, errNoContainer(name)
	}
	return found, nil
}

// noContainerError is the error of a name that no container of the job has.
type noContainerError string

func errNoContainer(name string) error { return noContainerError(name) }

// Error implements error, in Docker's own words.
func (e noContainerError) Error() string { return fmt.Sprintf("No such container: %.80s", string(e)) }

// resolve finds the containers of some names. Where a Docker could know them, the
// call is not about this job unless one of them is.
func (c *call) resolve(ctx context.Context, names ...string) ([]*brokerapi.ContainerInfo, error) {
	list, err := c.list(ctx)
	if err != nil {
		return nil, err
	}

	var found []*brokerapi.ContainerInfo
	var missing []error
	for _, name := range names {
		x, err := find(list.Containers, name)
		if err != nil {
			missing = append(missing, err)
			continue
		}
		found = append(found, x)
	}
	if len(found) == 0 && !c.Everything {
		return nil, ErrElsewhere
	}
	return found, errors.Join(missing...)
}

// psItem is a container in the words of "docker ps --format".
type psItem struct {
	ID, Names, Image, Command, CreatedAt, RunningFor, Status, State, Ports, Labels, Networks, Mounts string

	labels map[string]string
}

// Label returns the value of a label, for templates.
func (p psItem) Label(name string) string { return p.labels[name] }

func (c *call) ps(ctx context.Context, args []string) (int, error) {
	flags := newFlags("ps")
	all := flags.BoolP("all", "a", false, "")
	quiet := flags.BoolP("quiet", "q", false, "")
	noTrunc := flags.Bool("no-trunc", false, "")
	filters := flags.StringArrayP("filter", "f", nil, "")
	format := flags.String("format", "", "")
	latest := flags.BoolP("latest", "l", false, "")
	last := flags.IntP("last", "n", -1, "")
	flags.BoolP("size", "s", false, "")
	if err := c.parse(flags, "ps", args, 0); err != nil {
		return StatusFailed, err
	}

	list, err := c.list(ctx)
	if err != nil {
		return StatusFailed, err
	}
	chosen, err := filter(list.Containers, *filters, *all || *latest || *last >= 0)
	if err != nil {
		return StatusFailed, err
	}
	if *latest {
		*last = 1
	}
	if *last >= 0 {
		chosen = chosen[:min(*last, len(chosen))]
	}

	var items []psItem
	for _, x := range chosen {
		items = append(items, describe(x, *noTrunc))
	}
	return 0, printContainers(c.Stdout, items, *quiet, *format)
}

// filter returns the containers that all filters let through. Several values of
// one key are alternatives, as in docker-ps(1).
func filter(containers []brokerapi.ContainerInfo, filters []string, all bool) ([]brokerapi.ContainerInfo, error) {
	wanted := map[string][]string{}
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("docker ps: filter %.80q is not KEY=VALUE", f)
		}
		if !slices.Contains([]string{"id", "name", "label", "status", "ancestor", "network", "health"}, key) {
			return nil, fmt.Errorf("docker ps: filter %.80q is not supported", key)
		}
		wanted[key] = append(wanted[key], value)
	}

	var chosen []brokerapi.ContainerInfo
	for _, x := range containers {
		if !x.State.Running && !all && wanted["status"] == nil {
			continue
		}
		passes := true
		for key, values := range wanted {
			passes = passes && slices.ContainsFunc(values, func(value string) bool { return matches(x, key, value) })
		}
		if passes {
			chosen = append(chosen, x)
		}
	}
	return chosen, nil
}

// matches reports whether one value of a filter lets a container through.
func matches(x brokerapi.ContainerInfo, key, value string) bool {
	switch key {
	case "id":
		return strings.HasPrefix(x.ID, value)
	case "name":
		return strings.Contains(strings.TrimPrefix(x.Name, "/"), strings.Trim(value, "^$/"))
	case "label":
		name, want, valued := strings.Cut(value, "=")
		got, ok := x.Config.Labels[name]
		return ok && (!valued || got == want)
	case "status":
		return x.State.Status == value
	case "ancestor":
		return x.Config.Image == value || strings.HasPrefix(x.Config.Image, value+":")
	case "network":
		_, ok := x.NetworkSettings.Networks[value]
		return ok
	}
	return x.State.Health != nil && x.State.Health.Status == value
}

// describe returns a container as a line of "docker ps".
func describe(x brokerapi.ContainerInfo, noTrunc bool) psItem {
	id, command := x.ID, strings.Join(append([]string{x.Path}, x.Args...), " ")
	if !noTrunc {
		id = id[:min(12, len(id))]
		if runes := []rune(command); len(runes) > 20 {
			command = string(runes[:19]) + "…"
		}
	}
	var labels, networks, mounts []string
	for name, value := range x.Config.Labels {
		labels = append(labels, name+"="+value)
	}
	for name := range x.NetworkSettings.Networks {
		networks = append(networks, name)
	}
	for _, m := range x.Mounts {
		mounts = append(mounts, m.Source)
	}
	slices.Sort(labels)
	slices.Sort(networks)

	return psItem{
		ID: id, Names: strings.TrimPrefix(x.Name, "/"), Image: x.Config.Image, Command: fmt.Sprintf("%q", command),
		CreatedAt: x.Created.Format("2006-01-02 15:04:05 -0700 MST"), RunningFor: ago(time.Since(x.Created)) + " ago",
		Status: status(x.State), State: x.State.Status, Ports: strings.Join(portList(x), ", "),
		Labels: strings.Join(labels, ","), Networks: strings.Join(networks, ","), Mounts: strings.Join(mounts, ","),
		labels: x.Config.Labels,
	}
}

// status returns the state of a container as people read it.
func status(s brokerapi.ContainerState) string {
	switch {
	case s.Status == "created":
		return "Created"
	case !s.Running:
		return fmt.Sprintf("Exited (%d) %s ago", s.ExitCode, ago(time.Since(s.FinishedAt)))
	}
	text := "Up " + ago(time.Since(s.StartedAt))
	if s.Health == nil {
		return text
	}
	if s.Health.Status == "starting" {
		return text + " (health: starting)"
	}
	return text + " (" + s.Health.Status + ")"
}

// ago returns a duration in the words of docker.
func ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return "Less than a second"
	case d < 2*time.Second:
		return "1 second"
	case d < time.Minute:
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	case d < 2*time.Minute:
		return "About a minute"
	case d < time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case d < 2*time.Hour:
		return "About an hour"
	}
	return fmt.Sprintf("%d hours", int(d.Hours()))
}

func printContainers(w io.Writer, items []psItem, quiet bool, format string) error {
	text, table := strings.CutPrefix(format, "table ")
	switch {
	case quiet:
		for _, x := range items {
			fmt.Fprintln(w, x.ID)
		}
		return nil
	case format != "" && !table:
		return printEach(w, strings.ReplaceAll(format, `\t`, "\t"), items)
	case table:
		return printEach(w, strings.ReplaceAll(text, `\t`, "\t"), items)
	}

	var rows [][]string
	for _, x := range items {
		rows = append(rows, []string{x.ID, x.Image, x.Command, x.RunningFor, x.Status, x.Ports, x.Names})
	}
	return printTable(w, []string{"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"}, rows)
}

// portList returns the ports of a container as "docker ps" shows them.
func portList(x brokerapi.ContainerInfo) []string {
	var list []string
	for _, port := range sortedPorts(x) {
		bindings := x.NetworkSettings.Ports[port]
		if len(bindings) == 0 {
			list = append(list, port)
		}
		for _, b := range bindings {
			list = append(list, address(b)+"->"+port)
		}
	}
	return list
}

func sortedPorts(x brokerapi.ContainerInfo) []string {
	var ports []string
	for port := range x.NetworkSettings.Ports {
		ports = append(ports, port)
	}
	slices.Sort(ports)
	return ports
}

func address(b brokerapi.PortBinding) string {
	if strings.Contains(b.HostIP, ":") {
		return "[" + b.HostIP + "]:" + b.HostPort
	}
	return b.HostIP + ":" + b.HostPort
}

func (c *call) port(ctx context.Context, args []string) (int, error) {
	flags := newFlags("port")
	if err := c.parse(flags, "port", args, 1); err != nil {
		return StatusFailed, err
	}
	found, err := c.resolve(ctx, flags.Arg(0))
	if err != nil {
		return StatusFailed, err
	}
	x := *found[0]

	if wanted := flags.Arg(1); wanted != "" {
		if !strings.Contains(wanted, "/") {
			wanted += "/tcp"
		}
		bindings := x.NetworkSettings.Ports[wanted]
		if len(bindings) == 0 {
			return StatusFailed, fmt.Errorf("no public port '%.80s' published for %s", wanted, x.Name[1:])
		}
		for _, b := range bindings {
			fmt.Fprintln(c.Stdout, address(b))
		}
		return 0, nil
	}
	for _, port := range sortedPorts(x) {
		for _, b := range x.NetworkSettings.Ports[port] {
			fmt.Fprintf(c.Stdout, "%s -> %s\n", port, address(b))
		}
	}
	return 0, nil
}

// healthWait is how long an answer about the health of containers that still start
// is put off: the actions runner asks again after 2 s at the earliest.
const healthWait = 10 * time.Second

// awaitHealth is resolve, again until no container found still starts.
func (c *call) awaitHealth(
	ctx context.Context, found []*brokerapi.ContainerInfo, err error, names []string,
) ([]*brokerapi.ContainerInfo, error) {
	starts := func(x *brokerapi.ContainerInfo) bool {
		return x.State.Running && x.State.Health != nil && x.State.Health.Status == "starting"
	}
	deadline := time.Now().Add(healthWait)
	wait := 10 * time.Millisecond
	for ; err == nil && slices.ContainsFunc(found, starts); wait = min(2*wait, time.Second/2) {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
		if time.Now().After(deadline) {
			break
		}
		found, err = c.resolve(ctx, names...)
	}
	return found, err
}

func (c *call) inspect(ctx context.Context, args []string) (int, error) {
	flags := newFlags("inspect")
	format := flags.StringP("format", "f", "", "")
	kind := flags.String("type", "", "")
	flags.BoolP("size", "s", false, "")
	if err := c.parse(flags, "inspect", args, 1); err != nil {
		return StatusFailed, err
	}
	if *kind != "" && *kind != "container" {
		return c.elsewhere(append([]string{"inspect"}, args...))
	}

	found, missing := c.resolve(ctx, flags.Args()...)
	if strings.Contains(*format, ".State.Health.Status") {
		found, missing = c.awaitHealth(ctx, found, missing, flags.Args())
	}
	if errors.Is(missing, ErrElsewhere) {
		return 0, missing
	}
	var err error
	if *format != "" {
		err = printEach(c.Stdout, *format, found)
	} else {
		if found == nil {
			found = []*brokerapi.ContainerInfo{} // prints [], not null
		}
		encoder := json.NewEncoder(c.Stdout)
		encoder.SetIndent("", "    ")
		encoder.SetEscapeHTML(false)
		err = encoder.Encode(found)
	}
	if err := errors.Join(err, missing); err != nil {
		return StatusFailed, err
	}
	return 0, nil
}
