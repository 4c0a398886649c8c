package dockercli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// Docker's configuration, config.json(5): credentials of registries, by their
// names.
type configFile struct {
	Auths map[string]auth `json:"auths,omitempty"`
}

type auth struct {
	Auth string `json:"auth"` // USER:PASSWORD in base64
}

// dockerHub is the name of Docker Hub in config.json.
const dockerHub = "https://index.docker.io/v1/"

func (c *call) configPath() string {
	dir := c.config
	if dir == "" {
		dir, _ = c.Getenv("DOCKER_CONFIG")
	}
	if home, ok := c.Getenv("HOME"); dir == "" && ok {
		dir = filepath.Join(home, ".docker")
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(c.Dir, dir)
	}
	return filepath.Join(dir, "config.json")
}

// readConfig reads config.json as a whole, so that what others wrote into it is
// kept. A missing one is empty.
func (c *call) readConfig() (config configFile, rest map[string]json.RawMessage, err error) {
	rest = map[string]json.RawMessage{}
	data, err := os.ReadFile(c.configPath())
	if errors.Is(err, os.ErrNotExist) {
		return config, rest, nil
	}
	if err == nil {
		err = errors.Join(json.Unmarshal(data, &config), json.Unmarshal(data, &rest))
	}
	if err != nil {
		return config, nil, fmt.Errorf("cannot read docker's config.json: %w", err)
	}
	return config, rest, nil
}

func (c *call) writeConfig(config configFile, rest map[string]json.RawMessage) error {
	auths, err := json.Marshal(config.Auths)
	if err != nil {
		return err
	}
	rest["auths"] = auths
	data, err := json.MarshalIndent(rest, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.configPath()), 0o700); err != nil {
		return fmt.Errorf("cannot keep credentials: %w", err)
	}
	return atomicfile.Write(c.configPath(), append(data, '\n'), 0o600)
}

// login keeps credentials for a registry, which are used when an image of it is
// pulled. They are not tried before.
func (c *call) login(_ context.Context, args []string) (int, error) {
	flags := newFlags("login")
	user := flags.StringP("username", "u", "", "")
	password := flags.StringP("password", "p", "", "")
	fromInput := flags.Bool("password-stdin", false, "")
	if err := c.parse(flags, "login", args, 0); err != nil {
		return StatusFailed, err
	}
	if !c.Everything {
		return 0, ErrElsewhere // steps log in for their own Docker
	}
	if *fromInput {
		const limit = 64 << 10
		data, err := io.ReadAll(io.LimitReader(c.Stdin, limit))
		if err != nil {
			return StatusFailed, fmt.Errorf("cannot read the password: %w", err)
		}
		*password = strings.TrimRight(string(data), "\r\n")
	}
	if *user == "" || *password == "" {
		return StatusFailed, errors.New("cannot log in: give --username and --password-stdin")
	}

	config, rest, err := c.readConfig()
	if err != nil {
		return StatusFailed, err
	}
	if config.Auths == nil {
		config.Auths = map[string]auth{}
	}
	config.Auths[serverName(flags.Arg(0))] = auth{base64.StdEncoding.EncodeToString([]byte(*user + ":" + *password))}
	if err := c.writeConfig(config, rest); err != nil {
		return StatusFailed, err
	}
	fmt.Fprintln(c.Stdout, "Login Succeeded")
	return 0, nil
}

func (c *call) logout(_ context.Context, args []string) (int, error) {
	flags := newFlags("logout")
	if err := c.parse(flags, "logout", args, 0); err != nil {
		return StatusFailed, err
	}
	if !c.Everything {
		return 0, ErrElsewhere
	}
	config, rest, err := c.readConfig()
	if err != nil {
		return StatusFailed, err
	}
	delete(config.Auths, serverName(flags.Arg(0)))
	if err := c.writeConfig(config, rest); err != nil {
		return StatusFailed, err
	}
	return 0, nil
}

// serverName returns the name by which config.json has a registry.
func serverName(server string) string {
	name := strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	name, _, _ = strings.Cut(name, "/")
	if name == "" || name == "docker.io" || name == "index.docker.io" {
		return dockerHub
	}
	return name
}

// registryOf returns the name of an image's registry as config.json has it
// (distribution/reference: the part before the first slash, if it looks like a
// host).
func registryOf(image string) string {
	first, _, ok := strings.Cut(image, "/")
	if !ok || !strings.ContainsAny(first, ".:") && first != "localhost" {
		return dockerHub
	}
	return serverName(first)
}

// credentials returns those of an image's registry, nil if there are none.
func (c *call) credentials(image string) *brokerapi.Credentials {
	config, _, err := c.readConfig()
	if err != nil {
		return nil // the pull reports what it lacks
	}
	registry := registryOf(image)
	data, err := base64.StdEncoding.DecodeString(config.Auths[registry].Auth)
	user, password, ok := strings.Cut(string(data), ":")
	if err != nil || !ok {
		return nil
	}
	if registry == dockerHub {
		registry = "" // as the actions runner names it
	}
	return &brokerapi.Credentials{Username: user, Password: password, Server: registry}
}

func (c *call) pull(ctx context.Context, args []string) (int, error) {
	flags := newFlags("pull")
	flags.BoolP("quiet", "q", false, "")
	flags.String("platform", "", "")
	if err := c.parse(flags, "pull", args, 1); err != nil {
		return StatusFailed, err
	}
	if !c.Everything {
		return 0, ErrElsewhere
	}

	image := flags.Arg(0)
	r := brokerapi.DockerPull{Image: image, Credentials: c.credentials(image)}
	if err := c.Broker.Docker(ctx, brokerapi.Docker{Pull: &r}, nil, c.Stdout); err != nil {
		return StatusFailed, err
	}
	_, err := fmt.Fprintln(c.Stdout, image)
	return 0, err
}

func (c *call) build(ctx context.Context, args []string) (int, error) {
	flags := newFlags("build")
	tags := flags.StringArrayP("tag", "t", nil, "")
	file := flags.StringP("file", "f", "", "")
	if err := c.parse(flags, "build", args, 1); err != nil {
		return StatusFailed, err
	}
	if !c.Everything {
		return 0, ErrElsewhere
	}

	dir := c.path(flags.Arg(0))
	if *file == "" {
		*file = filepath.Join(dir, "Dockerfile")
	}
	r := brokerapi.DockerBuild{Dockerfile: c.path(*file), Context: dir, Tags: *tags}
	status, err := c.Broker.DockerProcess(context.WithoutCancel(ctx), brokerapi.Docker{Build: &r}, c.streams(false))
	if err != nil {
		return StatusFailed, err
	}
	return status, nil
}

func (c *call) path(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(c.Dir, name)
}
