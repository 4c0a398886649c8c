package fakegithub

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *Server) routes() {
	s.mux.HandleFunc("POST /actions/runner-registration", s.runnerRegistration)
	s.mux.HandleFunc("POST /actions/runners/register", s.register)
	for _, entity := range []string{"/orgs/{owner}", "/repos/{owner}/{repo}", "/enterprises/{enterprise}"} {
		s.mux.HandleFunc("GET "+entity+"/actions/runner-groups", s.runnerGroups)
		s.mux.HandleFunc("GET "+entity+"/actions/runners", s.listRunners)
		s.mux.HandleFunc("DELETE "+entity+"/actions/runners/{id}", s.deleteRunner)
	}
	s.mux.HandleFunc("POST "+tokenPath, s.exchangeToken)
	s.brokerRoutes()
	s.runRoutes()
	s.resultsRoutes()
	s.actionRoutes()
	s.controlRoutes()
}

// runnerRegistration names the tenant's services. A registration token that is
// not valid gets 404, as from GitHub.
func (s *Server) runnerRegistration(w http.ResponseWriter, r *http.Request) {
	var in struct {
		URL   string `json:"url"`
		Event string `json:"runner_event"`
	}
	if !readJSON(w, r, &in) {
		return
	}
	if !s.hasRegistrationToken(r) {
		writeError(w, http.StatusNotFound, "Not Found")
		return
	}
	if entityOf(in.URL) == "" || in.Event != "register" {
		writeError(w, http.StatusUnprocessableEntity, "Validation Failed")
		return
	}
	// The runner of this flow never uses the token.
	writeJSON(w, http.StatusOK, map[string]any{
		"url": origin(r) + tenantPath, "token_schema": "OAuthAccessToken", "token": randomJWT(), "use_v2_flow": true,
	})
}

// entityOf returns what a URL of a page of GitHub is about, such as
// acme/widgets, or "".
func entityOf(page string) string {
	u, err := url.Parse(page)
	if err != nil {
		return ""
	}
	return strings.Trim(u.Path, "/")
}

func (s *Server) hasRegistrationToken(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "RemoteAuth ")
	return ok && token != "" && (len(s.opt.Tokens) == 0 || slices.Contains(s.opt.Tokens, token))
}

// authorized checks the registration token, and answers if it is not valid.
func (s *Server) authorized(w http.ResponseWriter, r *http.Request) bool {
	if s.hasRegistrationToken(r) {
		return true
	}
	writeError(w, http.StatusUnauthorized, "Bad credentials")
	return false
}

// requestEntity returns the owner, repository or enterprise in a request's path.
func requestEntity(r *http.Request) string {
	switch {
	case r.PathValue("enterprise") != "":
		return "enterprises/" + r.PathValue("enterprise")
	case r.PathValue("repo") != "":
		return r.PathValue("owner") + "/" + r.PathValue("repo")
	}
	return r.PathValue("owner")
}

func (s *Server) runnerGroups(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(w, r) {
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"total_count": 1, "runner_groups": []map[string]any{
		{"id": 1, "name": "Default", "default": true, "is_hosted": false}}})
}

func (s *Server) listRunners(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(w, r) {
		return
	}
	entity, found := requestEntity(r), []Runner{}
	for _, runner := range s.Runners() {
		if name := r.URL.Query().Get("name"); runner.Entity == entity && (name == "" || name == runner.Name) {
			found = append(found, runner)
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"total_count": len(found), "runners": found})
}

func (s *Server) deleteRunner(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(w, r) {
		return
	}
	entity := requestEntity(r)
	id, err := strconv.Atoi(r.PathValue("id"))
	s.mu.Lock()
	defer s.mu.Unlock()
	if runner := s.runners[id]; err != nil || runner == nil || runner.Entity != entity {
		writeError(w, http.StatusNotFound, "Not Found")
		return
	}
	delete(s.runners, id)
	s.notify()
	w.WriteHeader(http.StatusNoContent)
}

// RegisterRequest is the body of POST actions/runners/register.
type RegisterRequest struct {
	URL             string  `json:"url"`
	GroupID         int     `json:"group_id"`
	Name            string  `json:"name"`
	Version         string  `json:"version"`
	UpdatesDisabled bool    `json:"updates_disabled"`
	Ephemeral       bool    `json:"ephemeral"`
	Labels          []Label `json:"labels"`
	PublicKey       string  `json:"public_key"` // RSAKeyValue XML
	RunnerID        int     `json:"runner_id,omitempty"`
	Replace         bool    `json:"replace,omitempty"`
}

// Label is one runner label; Type is "system" or "user".
type Label struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
	Type string `json:"type"`
}

// register adds a runner, or replaces the one named by runner_id.
func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(w, r) {
		return
	}
	var in RegisterRequest
	if !readJSON(w, r, &in) {
		return
	}
	key, err := parseKeyXML(in.PublicKey)
	entity := entityOf(in.URL)
	if err != nil || in.Name == "" || entity == "" {
		writeError(w, http.StatusUnprocessableEntity, "Validation Failed")
		return
	}
	runner, err := s.add(entity, in, key)
	if err != nil {
		writeError(w, http.StatusConflict, fmt.Sprintf("Already exists - A runner with the name %s already exists.", in.Name))
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"id": runner.ID, "name": runner.Name, "authorization": map[string]any{
		"authorization_url": origin(r) + tokenPath,
		"server_url":        origin(r) + tenantPath,
		"client_id":         runner.ClientID,
	}})
}

func (s *Server) add(entity string, in RegisterRequest, key *rsa.PublicKey) (Runner, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.nextID
	for _, old := range s.runners {
		if old.Entity != entity || old.Name != in.Name {
			continue
		}
		if !in.Replace || in.RunnerID != old.ID {
			return Runner{}, errors.New("name taken")
		}
		id = old.ID
	}
	if id == s.nextID {
		s.nextID++
	}
	runner := &Runner{ID: id, Name: in.Name, Group: in.GroupID, Version: in.Version, Status: "offline",
		Entity: entity, ClientID: randomUUID(), PublicKey: key, access: map[string]bool{}}
	for _, l := range in.Labels {
		runner.Labels = append(runner.Labels, l.Name)
	}
	s.runners[id] = runner
	s.notify()
	return *runner, nil
}

// exchangeToken is the OAuth step: a JWT signed with the runner's own key
// against an access token. It proves that the identity on the runner's disk is
// the one registered last.
func (s *Server) exchangeToken(w http.ResponseWriter, r *http.Request) {
	assertion := r.PostFormValue("client_assertion")
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, runner := range s.runners {
		if verifyJWT(assertion, runner.ClientID, origin(r)+tokenPath, runner.PublicKey) == nil {
			token := randomJWT()
			runner.access[token] = true
			answer := map[string]any{"access_token": token, "token_type": "bearer", "expires_in": 3600}
			writeJSON(w, http.StatusOK, answer)
			return
		}
	}
	writeJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_client",
		"error_description": "Registration was not found or is not medium trust."})
}

// verifyJWT checks a client assertion: PS256, the only algorithm of a runner
// whose .credentials have requireFipsCryptography.
func verifyJWT(token, clientID, audience string, key *rsa.PublicKey) error {
	signed, signature, ok := cutLast(token, ".")
	header, payload, ok2 := strings.Cut(signed, ".")
	if !ok || !ok2 || header != base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"PS256"}`)) {
		return errors.New("not a JWT with PS256")
	}

	sig, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(signed))
	if err := rsa.VerifyPSS(key, crypto.SHA256, sum[:], sig, nil); err != nil {
		return err
	}

	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return err
	}
	var claims struct {
		Subject  string `json:"sub"`
		Issuer   string `json:"iss"`
		Audience string `json:"aud"`
		From     int64  `json:"nbf"`
		Expires  int64  `json:"exp"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		return err
	}
	if claims.Issuer != clientID || claims.Subject != clientID || claims.Audience != audience {
		return errors.New("wrong issuer, subject or audience")
	}
	if claims.Expires != claims.From+300 || time.Now().Unix() > claims.Expires {
		return errors.New("wrong times or expired")
	}
	return nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func parseKeyXML(text string) (*rsa.PublicKey, error) {
	var v struct {
		XMLName  xml.Name `xml:"RSAKeyValue"`
		Modulus  []byte   `xml:"Modulus"`
		Exponent []byte   `xml:"Exponent"`
	}
	if err := xml.Unmarshal([]byte(text), &v); err != nil {
		return nil, err
	}
	n, err := base64.StdEncoding.DecodeString(string(v.Modulus))
	if err != nil || len(n) < 256 {
		return nil, errors.New("bad modulus")
	}
	e, err := base64.StdEncoding.DecodeString(string(v.Exponent))
	if err != nil {
		return nil, err
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
}

// origin returns the server's URL as the caller of r sees it.
func origin(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// randomJWT returns a token in the form of a JWT, which nobody reads.
func randomJWT() string {
	return "eyJ" + randomID() + ".eyJ" + randomID() + "." + randomID()
}

func randomID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, crypto/rand
	return hex.EncodeToString(b)
}

func randomUUID() string {
	h := randomID()
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
