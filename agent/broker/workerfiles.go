package broker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/mkappliance/mkappliance/agent/workroot"
	"github.com/mkappliance/mkappliance/internal/layout"
	"github.com/mkappliance/mkappliance/internal/osrelease"
)

// stubCredentials make the worker print runner, group and machine in "Set up
// job". It never uses them: it acts with the token of its job.
const stubCredentials = `{"scheme":"OAuth","data":{"clientId":"00000000-0000-0000-0000-000000000000"}}` + "\n"

// workerFiles returns the files that the worker finds in the root directory of
// its actions runner, by their paths in the guest.
func (r *resources) workerFiles() (map[string]string, error) {
	registration, err := readRegistration(r.settings.Worker.Registration)
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		layout.WorkerRunner + "/.runner":      registration,
		layout.WorkerRunner + "/.credentials": stubCredentials,
	}
	if info := r.settings.Worker.SetupInfo; info != "" {
		files[layout.WorkerRunner+"/.setup_info"] = info
	}
	return files, nil
}

// maxRegistration bounds what is read of .runner, in bytes.
const maxRegistration = 64 << 10

// readRegistration returns the .runner of the runner in dir as its worker in a
// guest is to see it: with the guest's work directory. There is no secret in it.
// The directory is the runner's, so no link is followed.
func readRegistration(dir string) (string, error) {
	text, err := changeRegistration(dir)
	if err != nil {
		return "", fmt.Errorf("cannot read the registration: %w; is the appliance registered?", err)
	}
	return text, nil
}

func changeRegistration(dir string) (string, error) {
	f, err := workroot.Root{Path: dir}.OpenFile(".runner")
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRegistration+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxRegistration {
		return "", fmt.Errorf(".runner is longer than %d bytes", maxRegistration)
	}

	// The actions runner writes a byte order mark, and does not need it.
	var members map[string]json.RawMessage
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\ufeff")), &members); err != nil || members == nil {
		return "", errors.New(".runner is not a JSON object")
	}
	const key = "workFolder"
	maps.DeleteFunc(members, func(k string, _ json.RawMessage) bool { return strings.EqualFold(k, key) })
	members[key] = json.RawMessage(`"` + layout.WorkerWork + `"`)
	changed, err := json.Marshal(members)
	return string(changed) + "\n", err
}

// workerEnviron returns the environment of a worker in a guest: what the host's
// is to it, and of the listener's environment what changes how a worker works.
// Anything else there concerns the host.
func workerEnviron(listener map[string]string, docker bool) map[string]string {
	env := map[string]string{
		"LANG": "C.UTF-8", "CI": "true", "GITHUB_ACTIONS": "true",
		// Without it a job with containers loses a second on two processors.
		"DOTNET_ThreadPool_ForceMinWorkerThreads": "10",
	}
	for key, value := range listener {
		if ofWorker(key) {
			env[key] = value
		}
	}

	maps.Copy(env, map[string]string{
		"USER": layout.WorkerUser, "LOGNAME": layout.WorkerUser, "SHELL": "/bin/bash", "PATH": layout.Path,
	})
	if !docker { // the worker calls docker where it has no hook
		env["ACTIONS_RUNNER_CONTAINER_HOOKS"] = layout.WorkerHooks
	}
	return env
}

// ofWorker reports whether a variable of the listener's environment is for its
// workers.
func ofWorker(key string) bool {
	switch strings.ToLower(key) {
	case "http_proxy", "https_proxy", "no_proxy", "all_proxy":
		return true
	}
	switch key {
	case "CI", "GITHUB_ACTIONS", "LANG", "TZ", "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER",
		"ACTIONS_RUNNER_PRINT_LOG_TO_STDOUT":
		return true
	}
	for _, prefix := range []string{"LC_", "GITHUB_ACTIONS_RUNNER_", "WORKER_", "DOTNET_ThreadPool_"} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// setupInfo returns .setup_info of the actions runner, whose groups of lines are
// printed in "Set up job": the systems of the guest base and of the appliance, by
// their os-release(5) files.
func setupInfo(appliance, base string) string {
	type group struct {
		Group  string `json:"group"`
		Detail string `json:"detail"`
	}
	var groups []group
	if guest := osrelease.Read(base); guest["PRETTY_NAME"] != "" {
		groups = append(groups, group{"Operating System", guest["PRETTY_NAME"]})
	}
	if host := osrelease.Read(appliance); host["IMAGE_ID"] != "" {
		groups = append(groups, group{"Runner Image", fmt.Sprintf(
			"Image: %s\nVersion: %s\nActions runner: %s\nAgent: %s (%s)\nGuest base: %s",
			host["IMAGE_ID"], host["IMAGE_VERSION"], host["RUNNER_VERSION"],
			host["RUNNER_AGENT_VERSION"], host["RUNNER_AGENT_COMMIT"], base)})
	}
	if len(groups) == 0 {
		return ""
	}
	data, err := json.Marshal(groups)
	if err != nil {
		panic(err) // strings always marshal
	}
	return string(data) + "\n"
}
