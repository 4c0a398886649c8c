package brokerapi

import "time"

// ContainerInfo describes a container in the words of "docker inspect", of which
// it has the members that workflows use (Docker Engine API 1.47,
// ContainerInspect).
type ContainerInfo struct {
	ID              string           `json:"Id"`
	Created         time.Time        `json:"Created"`
	Path            string           `json:"Path"`
	Args            []string         `json:"Args"`
	State           ContainerState   `json:"State"`
	Image           string           `json:"Image"`
	Name            string           `json:"Name"` // begins with a slash
	RestartCount    int              `json:"RestartCount"`
	Driver          string           `json:"Driver"`
	Platform        string           `json:"Platform"`
	HostConfig      ContainerHost    `json:"HostConfig"`
	Mounts          []ContainerMount `json:"Mounts"`
	Config          ContainerConfig  `json:"Config"`
	NetworkSettings ContainerNetwork `json:"NetworkSettings"`
}

// ContainerState is how far a container has come.
type ContainerState struct {
	Status     string           `json:"Status"` // created, running or exited
	Running    bool             `json:"Running"`
	Paused     bool             `json:"Paused"`
	Restarting bool             `json:"Restarting"`
	OOMKilled  bool             `json:"OOMKilled"`
	Dead       bool             `json:"Dead"`
	Pid        int              `json:"Pid"`
	ExitCode   int              `json:"ExitCode"`
	Error      string           `json:"Error"`
	StartedAt  time.Time        `json:"StartedAt"`
	FinishedAt time.Time        `json:"FinishedAt"`
	Health     *ContainerHealth `json:"Health,omitempty"`
}

// ContainerHealth is what the health check of a container has found.
type ContainerHealth struct {
	Status        string `json:"Status"` // starting, healthy or unhealthy
	FailingStreak int    `json:"FailingStreak"`
	Log           []struct {
		ExitCode int    `json:"ExitCode"`
		Output   string `json:"Output"`
	} `json:"Log"`
}

// ContainerHost is what a container has of its host.
type ContainerHost struct {
	NetworkMode string                   `json:"NetworkMode"`
	Binds       []string                 `json:"Binds"`
	Privileged  bool                     `json:"Privileged"`
	Memory      int64                    `json:"Memory"`
	NanoCPUs    int64                    `json:"NanoCpus"`
	AutoRemove  bool                     `json:"AutoRemove"`
	Ports       map[string][]PortBinding `json:"PortBindings"`
}

// ContainerMount is a volume of a container.
type ContainerMount struct {
	Type        string `json:"Type"` // bind or volume
	Name        string `json:"Name,omitempty"`
	Source      string `json:"Source"`
	Destination string `json:"Destination"`
	RW          bool   `json:"RW"`
}

// ContainerConfig is what a container was asked to be.
type ContainerConfig struct {
	Hostname    string              `json:"Hostname"`
	User        string              `json:"User"`
	Env         []string            `json:"Env"`
	Cmd         []string            `json:"Cmd"`
	Image       string              `json:"Image"`
	WorkingDir  string              `json:"WorkingDir"`
	Entrypoint  []string            `json:"Entrypoint"`
	Labels      map[string]string   `json:"Labels"`
	Healthcheck *ContainerHealthCmd `json:"Healthcheck,omitempty"`
}

// ContainerHealthCmd is the health check of a container.
type ContainerHealthCmd struct {
	Test []string `json:"Test"` // CMD or CMD-SHELL, and the command
}

// ContainerNetwork is where a container is reached.
type ContainerNetwork struct {
	IPAddress string                   `json:"IPAddress"`
	Gateway   string                   `json:"Gateway"`
	Ports     map[string][]PortBinding `json:"Ports"` // "5432/tcp": where it is published
	Networks  map[string]NetworkInfo   `json:"Networks"`
}

// NetworkInfo is a container's end of a network.
type NetworkInfo struct {
	IPAddress string   `json:"IPAddress"`
	Gateway   string   `json:"Gateway"`
	NetworkID string   `json:"NetworkID"`
	Aliases   []string `json:"Aliases"`
}

// PortBinding is where a port of a container is published.
type PortBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string `json:"HostPort"`
}
