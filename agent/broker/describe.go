package broker

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
)

// maxEarlyPulls bounds how many images of a job are pulled before it asks for
// them.
const maxEarlyPulls = 16

// follow waits for the description of the job. There may never be one.
func (j *job) follow(described <-chan brokerapi.JobInfo) {
	select {
	case info := <-described:
		j.describe(info)
	case <-j.ctx.Done():
	}
}

// describe takes the description of the job, and begins to pull its images.
func (j *job) describe(info brokerapi.JobInfo) {
	j.mu.Lock()
	j.info = info
	j.mu.Unlock()
	j.log.Info("job described", "job", j.id, "name", info.Name, "services", len(info.Services))

	for _, image := range info.Images[:min(len(info.Images), maxEarlyPulls)] {
		go j.pullEarly(image)
	}
}

// pullEarly pulls an image, which then is there when the job asks for it. A
// failure is reported where it asks.
func (j *job) pullEarly(image string) {
	ctx, done, err := j.enter(context.Background())
	if err != nil {
		return
	}
	defer done()

	root, err := j.findRoot(ctx, brokerapi.Container{Image: image}, func(string, ...any) {})
	if err != nil {
		return
	}
	j.mu.Lock()
	j.early = append(j.early, root)
	j.mu.Unlock()
}

// keyPattern is what a key of a service looks like, which is also a host name.
var keyPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,99}$`)

// nameServices adds to services the names that the workflow has for them, of which
// the container hook is not told.
func (j *job) nameServices(members []*member) {
	j.mu.Lock()
	info := j.info
	j.mu.Unlock()

	services := slices.DeleteFunc(slices.Clone(members), func(m *member) bool { return !m.isService })
	for i, key := range matchKeys(info.Services, services) {
		services[i].addName(key)
	}
}

// matchKeys returns the key of each service, "" for one that cannot be told. The
// actions runner passes services in the order of the workflow, but leaves out one
// whose image turns out to be empty.
func matchKeys(described []brokerapi.ServiceInfo, services []*member) []string {
	keys := make([]string, len(services))
	if len(described) == len(services) {
		for i, d := range described {
			keys[i] = d.Key
		}
		return keys
	}

	next := 0
	for i, m := range services {
		image := strings.TrimPrefix(m.spec.Image, "docker://")
		for at := next; at < len(described); at++ {
			if image == strings.TrimPrefix(described[at].Image, "docker://") {
				keys[i], next = described[at].Key, at+1
				break
			}
		}
	}
	return keys
}
