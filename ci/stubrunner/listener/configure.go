package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"

	"github.com/mkappliance/mkappliance/ci/fakegithub"
)

// settings is the file .runner.
type settings struct {
	AgentID       int    `json:"agentId"`
	AgentName     string `json:"agentName"`
	PoolID        int    `json:"poolId"`
	PoolName      string `json:"poolName"`
	DisableUpdate bool   `json:"disableUpdate"`
	Ephemeral     bool   `json:"ephemeral"`
	ServerURL     string `json:"serverUrl"`
	GitHubURL     string `json:"gitHubUrl"`
	WorkFolder    string `json:"workFolder"`
	UseV2Flow     bool   `json:"useV2Flow"`
	ServerURLV2   string `json:"serverUrlV2"`
}

// credentials is the file .credentials.
type credentials struct {
	Scheme string `json:"scheme"`
	Data   struct {
		ClientID         string `json:"clientId"`
		AuthorizationURL string `json:"authorizationUrl"`
		RequireFIPS      string `json:"requireFipsCryptography"`
	} `json:"data"`
}

var (
	errAlreadyConfigured = runnerError("Cannot configure the runner because it is already configured. To reconfigure " +
		"the runner, run 'config.cmd remove' or './config.sh remove' first.")
	errNotConfigured = runnerError("Cannot configure the runner because it is not configured.")
)

// configure registers in the order of the real runner: key, registration,
// .credentials, and .runner last.
func configure(ctx context.Context, r root, in input) error {
	fmt.Println("\n--------------------------------------------------------------------------------")
	fmt.Println("|                       Self-hosted runner registration                        |")
	fmt.Println("--------------------------------------------------------------------------------")
	if r.configured() {
		return errAlreadyConfigured
	}

	fmt.Println("\n# Authentication")
	c, err := connect(ctx, in.values["url"], in.values["token"], "register")
	if err != nil {
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

	cred := credentials{Scheme: "OAuth"}
	cred.Data.ClientID = registered.Authorization.ClientID
	cred.Data.AuthorizationURL = registered.Authorization.AuthorizationURL
	cred.Data.RequireFIPS = "False"
	if err := saveJSON(r.path(".credentials"), cred, 0o600); err != nil {
		return err
	}

	fmt.Println("\n# Runner settings")
	work := in.values["work"]
	if work == "" {
		work = "_work"
	}
	err = saveJSON(r.path(".runner"), settings{
		AgentID: registered.ID, AgentName: registered.Name, PoolID: 1, PoolName: "Default",
		DisableUpdate: in.values["disableupdate"] == "true", Ephemeral: in.values["ephemeral"] == "true",
		ServerURL: c.tenantURL, GitHubURL: in.values["url"], WorkFolder: work,
		UseV2Flow: true, ServerURLV2: registered.Authorization.ServerURL,
	}, 0o644)
	if err != nil {
		return err
	}
	fmt.Println("\n√ Settings Saved.")
	return nil
}

// remove deletes the registration, then the local files.
func remove(ctx context.Context, r root, in input) error {
	fmt.Println("\n# Runner removal")
	s, err := loadSettings(r)
	if err != nil {
		return errNotConfigured
	}
	if in.values["local"] != "true" {
		c, err := connect(ctx, s.GitHubURL, in.values["token"], "remove")
		if err != nil {
			return err
		}
		address := fmt.Sprintf("%s/actions/runners/%d", c.entityAPI, s.AgentID)
		if err := c.call(ctx, http.MethodDelete, address, nil, nil); err != nil {
			return err
		}
		fmt.Println("\n√ Runner removed successfully")
	}

	for _, name := range []string{".credentials", ".credentials_rsaparams", ".runner"} {
		if err := os.Remove(r.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	fmt.Println("√ Removed .credentials\n√ Removed .runner")
	return nil
}

// tenant is a connection authorized by a registration token.
type tenant struct {
	client
	api       string // of the host
	entityAPI string // of the owner, repository or enterprise
	tenantURL string
	entityURL string
}

func connect(ctx context.Context, entityURL, token, event string) (*tenant, error) {
	u, err := url.Parse(entityURL)
	if err != nil || u.Host == "" {
		return nil, runnerErrorf("Invalid URL '%s'", entityURL)
	}

	t := &tenant{api: u.Scheme + "://" + u.Host + "/api/v3", entityURL: entityURL}
	switch parts := strings.Split(strings.Trim(u.Path, "/"), "/"); {
	case len(parts) == 2 && parts[0] == "enterprises":
		t.entityAPI = t.api + "/enterprises/" + parts[1]
	case len(parts) == 2:
		t.entityAPI = t.api + "/repos/" + parts[0] + "/" + parts[1]
	default:
		t.entityAPI = t.api + "/orgs/" + parts[0]
	}

	t.authorization = "RemoteAuth " + token
	var auth struct{ URL, Token string }
	body := map[string]string{"url": entityURL, "runner_event": event}
	if err := t.callRetrying(ctx, http.MethodPost, t.api+"/actions/runner-registration", body, &auth); err != nil {
		return nil, err
	}
	t.authorization, t.tenantURL = "Bearer "+auth.Token, auth.URL
	return t, nil
}

func (t *tenant) checkGroup(ctx context.Context, name string) error {
	var groups struct {
		RunnerGroups []struct{ Name string } `json:"runner_groups"`
	}
	if err := t.callRetrying(ctx, http.MethodGet, t.entityAPI+"/actions/runner-groups", nil, &groups); err != nil {
		return err
	}
	for _, g := range groups.RunnerGroups {
		if name == "" || strings.EqualFold(g.Name, name) {
			return nil
		}
	}
	return runnerErrorf("Could not find any self-hosted runner group named \"%s\".", name)
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

func (t *tenant) register(ctx context.Context, in input, key *rsa.PrivateKey) (registration, error) {
	name := in.values["name"]
	if name == "" {
		name, _ = os.Hostname()
	}
	var same struct {
		Runners []struct{ ID int }
	}
	address := t.entityAPI + "/actions/runners?name=" + url.QueryEscape(name)
	if err := t.callRetrying(ctx, http.MethodGet, address, nil, &same); err != nil {
		return registration{}, err
	}

	req := fakegithub.RegisterRequest{
		URL: t.entityURL, GroupID: 1, Name: name, Version: version,
		UpdatesDisabled: in.values["disableupdate"] == "true", Ephemeral: in.values["ephemeral"] == "true",
		Labels: labels(in.values["labels"]), PublicKey: keyXML(&key.PublicKey),
	}
	if len(same.Runners) > 0 {
		fmt.Println("\nA runner exists with the same name")
		if in.values["replace"] != "true" {
			return registration{}, runnerErrorf("A runner exists with the same name %s.", name)
		}
		req.RunnerID, req.Replace = same.Runners[0].ID, true
	}

	var out registration
	if err := t.callRetrying(ctx, http.MethodPost, t.api+"/actions/runners/register", req, &out); err != nil {
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
		{Name: "self-hosted", Type: "System"},
		{Name: "Linux", Type: "System"},
		{Name: runnerArch(), Type: "System"},
	}
	for _, l := range strings.Split(list, ",") {
		if l = strings.TrimSpace(l); l != "" {
			all = append(all, fakegithub.Label{Name: l, Type: "User"})
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

// rsaParams is the file .credentials_rsaparams: big-endian numbers in base64.
type rsaParams struct {
	D        []byte `json:"d"`
	DP       []byte `json:"dp"`
	DQ       []byte `json:"dq"`
	Exponent []byte `json:"exponent"`
	InverseQ []byte `json:"inverseQ"`
	Modulus  []byte `json:"modulus"`
	P        []byte `json:"p"`
	Q        []byte `json:"q"`
}

func createKey(r root) (*rsa.PrivateKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	p := rsaParams{
		D: key.D.Bytes(), Exponent: big.NewInt(int64(key.E)).Bytes(), Modulus: key.N.Bytes(),
		P: key.Primes[0].Bytes(), Q: key.Primes[1].Bytes(),
		DP: key.Precomputed.Dp.Bytes(), DQ: key.Precomputed.Dq.Bytes(), InverseQ: key.Precomputed.Qinv.Bytes(),
	}
	return key, saveJSON(r.path(".credentials_rsaparams"), p, 0o600)
}

func keyXML(key *rsa.PublicKey) string {
	b64 := base64.StdEncoding.EncodeToString
	return "<RSAKeyValue><Modulus>" + b64(key.N.Bytes()) + "</Modulus><Exponent>" +
		b64(big.NewInt(int64(key.E)).Bytes()) + "</Exponent></RSAKeyValue>"
}

// saveJSON writes as IOUtil.SaveObject does: indented, with a byte order mark,
// and not atomically.
func saveJSON(path string, v any, perm os.FileMode) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append([]byte("\xef\xbb\xbf"), data...), perm); err != nil {
		return runnerErrorf("Access to the path '%s' is denied. %v", path, err)
	}
	return os.Chmod(path, perm)
}

func loadJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(strings.TrimPrefix(string(data), "\xef\xbb\xbf")), v)
}

func loadSettings(r root) (s settings, err error) {
	err = loadJSON(r.path(".runner"), &s)
	return s, err
}
