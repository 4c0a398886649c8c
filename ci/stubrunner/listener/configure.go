package main

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"

	"github.com/mkappliance/mkappliance/ci/fakegithub"
	"github.com/mkappliance/mkappliance/ci/stubrunner/internal/api"
	"github.com/mkappliance/mkappliance/ci/stubrunner/internal/files"
)

var (
	errAlreadyConfigured = api.Error("Cannot configure the runner because it is already configured. To reconfigure " +
		"the runner, run 'config.cmd remove' or './config.sh remove' first.")
	errNotConfigured = api.Error("Cannot configure the runner because it is not configured.")
)

// configure registers in the order of the real runner: key, registration,
// .credentials, and .runner last.
func configure(ctx context.Context, r files.Root, in input) error {
	fmt.Println("\n--------------------------------------------------------------------------------")
	fmt.Println("|                       Self-hosted runner registration                        |")
	fmt.Println("--------------------------------------------------------------------------------")
	if r.Configured() {
		return errAlreadyConfigured
	}

	fmt.Println("\n# Authentication")
	c, err := newEntity(in.values["url"], in.values["token"])
	if err != nil {
		return err
	}
	if err := c.connect(ctx); err != nil {
		return err
	}
	fmt.Println("\n√ Connected to GitHub")

	key, err := createKey(r)
	if err != nil {
		return err
	}
	fmt.Println("\n# Runner Registration")
	if err := c.checkGroup(ctx, in.values["runnergroup"]); err != nil {
		return err
	}

	registered, err := c.register(ctx, in, key)
	if err != nil {
		return err
	}

	err = files.SaveJSON(r.Path(".credentials"), files.Credentials{Scheme: "OAuth", Data: files.CredentialData{
		ClientID: registered.Authorization.ClientID, AuthorizationURL: registered.Authorization.AuthorizationURL,
		RequireFIPS: "True",
	}}, 0o644)
	if err != nil {
		return err
	}

	fmt.Println("\n# Runner settings")
	work := in.values["work"]
	if work == "" {
		work = "_work"
	}
	err = files.SaveJSON(r.Path(".runner"), files.Settings{
		AgentID: registered.ID, AgentName: registered.Name, PoolID: 1, PoolName: "Default",
		DisableUpdate: in.values["disableupdate"] == "true", Ephemeral: in.values["ephemeral"] == "true",
		ServerURL: c.tenantURL, GitHubURL: in.values["url"], WorkFolder: work,
		UseV2Flow: true, UseRunnerAdminFlow: true, ServerURLV2: registered.Authorization.ServerURL,
	}, 0o644)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.Path("svc.sh"), []byte(serviceScript), 0o755); err != nil {
		return err
	}
	fmt.Println("\n√ Settings Saved.")
	return nil
}

// serviceScript stands for the script that makes a service of the runner.
const serviceScript = "#!/bin/bash\n# Stand-in for the runner's svc.sh.\n"

// remove deletes the registration, then the local files.
func remove(ctx context.Context, r files.Root, in input) error {
	fmt.Println("\n# Runner removal")
	s, err := r.Settings()
	if err != nil {
		return errNotConfigured
	}
	if in.values["local"] != "true" {
		c, err := newEntity(s.GitHubURL, in.values["token"])
		if err != nil {
			return err
		}
		address := fmt.Sprintf("%s/actions/runners/%d", c.entityAPI, s.AgentID)
		if err := c.Call(ctx, http.MethodDelete, address, nil, nil); err != nil {
			return err
		}
		fmt.Println("\n√ Runner removed successfully")
	}

	for _, name := range []string{".credentials", ".credentials_rsaparams", ".runner"} {
		if err := os.Remove(r.Path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	fmt.Println("√ Removed .credentials\n√ Removed .runner")
	return nil
}

// entity is the page that the runner serves, with a registration or a removal
// token, which authorizes every call of this flow.
type entity struct {
	api.Client
	page      string // --url
	api       string // of the host
	entityAPI string // of the owner, repository or enterprise
	tenantURL string
}

// newEntity leaves the port out of the addresses of the API, as the runner does.
func newEntity(page, token string) (*entity, error) {
	u, err := url.Parse(page)
	if err != nil || u.Host == "" {
		return nil, api.Errorf("Invalid URL '%s'", page)
	}

	t := &entity{page: page, api: u.Scheme + "://" + u.Hostname() + "/api/v3"}
	t.Authorization, t.UserAgent = "RemoteAuth "+token, api.UserAgent(version, "Runner")
	switch parts := strings.Split(strings.Trim(u.Path, "/"), "/"); {
	case len(parts) == 2 && parts[0] == "enterprises":
		t.entityAPI = t.api + "/enterprises/" + parts[1]
	case len(parts) == 2:
		t.entityAPI = t.api + "/repos/" + parts[0] + "/" + parts[1]
	default:
		t.entityAPI = t.api + "/orgs/" + parts[0]
	}

	return t, nil
}

// connect learns the URL of the tenant. The token in the answer is not used.
func (t *entity) connect(ctx context.Context) error {
	var auth struct{ URL string }
	body := map[string]string{"url": t.page, "runner_event": "register"}
	err := t.CallRetrying(ctx, http.MethodPost, t.api+"/actions/runner-registration", body, &auth)
	t.tenantURL = auth.URL
	return err
}

func (t *entity) checkGroup(ctx context.Context, name string) error {
	var groups struct {
		RunnerGroups []struct{ Name string } `json:"runner_groups"`
	}
	if err := t.CallRetrying(ctx, http.MethodGet, t.entityAPI+"/actions/runner-groups", nil, &groups); err != nil {
		return err
	}
	for _, g := range groups.RunnerGroups {
		if name == "" || strings.EqualFold(g.Name, name) {
			return nil
		}
	}
	return api.Errorf("Could not find any self-hosted runner group named \"%s\".", name)
}

type registration struct {
	ID            int
	Name          string
	Authorization struct {
		AuthorizationURL string `json:"authorization_url"`
		ServerURL        string `json:"server_url"`
		ClientID         string `json:"client_id"`
	}
}

func (t *entity) register(ctx context.Context, in input, key *rsa.PrivateKey) (registration, error) {
	name := in.values["name"]
	if name == "" {
		name, _ = os.Hostname()
	}
	var same struct {
		Runners []struct{ ID int }
	}
	address := t.entityAPI + "/actions/runners?name=" + url.QueryEscape(name)
	if err := t.CallRetrying(ctx, http.MethodGet, address, nil, &same); err != nil {
		return registration{}, err
	}

	req := fakegithub.RegisterRequest{
		URL: t.page, GroupID: 1, Name: name, Version: version,
		UpdatesDisabled: in.values["disableupdate"] == "true", Ephemeral: in.values["ephemeral"] == "true",
		Labels: labels(in.values["labels"]), PublicKey: keyXML(&key.PublicKey),
	}
	if len(same.Runners) > 0 {
		fmt.Println("\nA runner exists with the same name")
		if in.values["replace"] != "true" {
			return registration{}, api.Errorf("A runner exists with the same name %s.", name)
		}
		req.RunnerID, req.Replace = same.Runners[0].ID, true
	}

	var out registration
	if err := t.CallRetrying(ctx, http.MethodPost, t.api+"/actions/runners/register", req, &out); err != nil {
		return out, err
	}
	if req.Replace {
		fmt.Println("√ Successfully replaced the runner")
	} else {
		fmt.Println("\n√ Runner successfully added")
	}
	return out, nil
}

func labels(list string) []fakegithub.Label {
	all := []fakegithub.Label{
		{Name: "self-hosted", Type: "system"},
		{Name: "Linux", Type: "system"},
		{Name: runnerArch(), Type: "system"},
	}
	for _, l := range strings.Split(list, ",") {
		if l = strings.TrimSpace(l); l != "" {
			all = append(all, fakegithub.Label{Name: l, Type: "user"})
		}
	}
	return all
}

func runnerArch() string {
	if runtime.GOARCH == "arm64" {
		return "ARM64"
	}
	return "X64"
}
