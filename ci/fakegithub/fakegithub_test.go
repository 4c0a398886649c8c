package fakegithub_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/fakegithub"
	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/ci/protocol"
)

// call makes one JSON call and returns status and decoded answer.
func call(t *testing.T, method, url, authorization string, in any) (int, map[string]any) {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out := map[string]any{}
	_ = json.NewDecoder(resp.Body).Decode(&out) // some answers have no body
	return resp.StatusCode, out
}

func serve(t *testing.T) (*fakegithub.Server, string) {
	s := fakegithub.New(fakegithub.Options{Tokens: []string{"good"}, PollTimeout: 50 * time.Millisecond})
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, h.URL
}

func TestTokens(t *testing.T) {
	s, url := serve(t)
	body := map[string]string{"url": "https://github.com/acme", "runner_event": "register"}
	for _, test := range []struct {
		authorization string
		want          int
	}{
		{authorization: "RemoteAuth good", want: 200},
		{authorization: "RemoteAuth bad", want: 404},
		{authorization: "Bearer good", want: 404},
		{authorization: "", want: 404},
	} {
		for _, prefix := range []string{"", "/api/v3"} {
			got, _ := call(t, "POST", url+prefix+"/actions/runner-registration", test.authorization, body)
			if got != test.want {
				t.Errorf("%q: %d, want %d", test.authorization, got, test.want)
			}
		}
	}

	register := fakegithub.RegisterRequest{Name: "a"}
	if got, _ := call(t, "POST", url+"/actions/runners/register", "Bearer x", register); got != 401 {
		t.Errorf("register: status %d", got)
	}
	if got, _ := call(t, "GET", url+"/orgs/acme/actions/runners", "Bearer x", nil); got != 401 {
		t.Errorf("list: status %d", got)
	}
	if got, _ := call(t, "GET", url+"/_services/tenant/message", "Bearer x", nil); got != 401 {
		t.Errorf("message: status %d", got)
	}
	if got, out := call(t, "POST", url+"/_services/oauth/token", "", nil); got != 400 || out["error"] != "invalid_client" {
		t.Errorf("token: status %d, %v", got, out)
	}
	if s.Registrations() != 0 {
		t.Error("something counted as a registration")
	}
}

// TestWrongAuthorization: each call wants its own kind of token. Those that the
// old doubles used among themselves are refused.
func TestWrongAuthorization(t *testing.T) {
	s, url := serve(t)
	id, _, err := s.Start(miniworker.Job{Name: "x"}, url)
	if err != nil {
		t.Fatal(err)
	}
	_, tenant := call(t, "POST", url+"/actions/runner-registration", "RemoteAuth good",
		map[string]string{"url": "https://github.com/acme", "runner_event": "register"})
	access, _ := tenant["token"].(string)
	if access == "" {
		t.Fatalf("no token in %v", tenant)
	}

	for _, test := range []struct {
		summary, method, path string
		want                  int
	}{
		{summary: "groups", method: "GET", path: "/orgs/acme/actions/runner-groups", want: 401},
		{summary: "list", method: "GET", path: "/orgs/acme/actions/runners", want: 401},
		{summary: "register", method: "POST", path: "/actions/runners/register", want: 401},
		{summary: "delete", method: "DELETE", path: "/orgs/acme/actions/runners/1", want: 401},
		{summary: "session", method: "POST", path: "/_services/tenant/session", want: 401},
		{summary: "poll", method: "GET", path: "/_services/tenant/message", want: 401},
		{summary: "acknowledge", method: "POST", path: "/_services/tenant/acknowledge", want: 401},
		{summary: "acquire", method: "POST", path: "/_services/run/acquirejob", want: 401},
		{summary: "renew", method: "POST", path: "/_services/run/renewjob", want: 401},
		{summary: "complete", method: "POST", path: "/_services/run/completejob", want: 401},
		{summary: "steps", method: "POST", path: "/_services/results" + protocol.StepsUpdatePath, want: 401},
		{summary: "log", method: "POST", want: 401,
			path: "/_services/results" + protocol.ReceiverPath + "GetJobLogsSignedBlobURL"},
		{summary: "blob", method: "PUT", path: "/_blobs/1", want: 400},
		{summary: "action", method: "GET", path: "/_codeload/1", want: 404},
	} {
		// The tenant's token, which nothing uses in this flow.
		got, _ := call(t, test.method, url+test.path, "Bearer "+access, map[string]string{})
		if got != test.want {
			t.Errorf("%s: status %d, want %d", test.summary, got, test.want)
		}
	}
	if s.Log(id) != nil {
		t.Error("the job has a log")
	}
}

// TestRemovalNeedsNoRegistration: call 1 does not come before a removal.
func TestRemovalNeedsNoRegistration(t *testing.T) {
	_, url := serve(t)
	body := map[string]string{"url": "https://github.com/acme", "runner_event": "remove"}
	if got, _ := call(t, "POST", url+"/actions/runner-registration", "RemoteAuth good", body); got != 422 {
		t.Errorf("status %d", got)
	}
}

// TestAssertion: a client assertion counts with PS256, and for this client, place
// and time.
func TestAssertion(t *testing.T) {
	_, address := serve(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	register := fakegithub.RegisterRequest{URL: "https://github.com/acme", Name: "a",
		PublicKey: "<RSAKeyValue><Modulus>" + b64(key.N.Bytes()) + "</Modulus><Exponent>AQAB</Exponent></RSAKeyValue>"}
	_, registered := call(t, "POST", address+"/actions/runners/register", "RemoteAuth good", register)
	authorization, _ := registered["authorization"].(map[string]any)
	client, _ := authorization["client_id"].(string)
	place, _ := authorization["authorization_url"].(string)

	now := time.Now().Unix()
	for _, test := range []struct {
		summary               string
		algorithm, iss, aud   string
		notBefore, expiration int64
		want                  int
	}{
		{summary: "good", algorithm: "PS256", iss: client, aud: place, notBefore: now, expiration: now + 300, want: 200},
		{summary: "RS256", algorithm: "RS256", iss: client, aud: place, notBefore: now, expiration: now + 300, want: 400},
		{summary: "client", algorithm: "PS256", iss: "x", aud: place, notBefore: now, expiration: now + 300, want: 400},
		{summary: "place", algorithm: "PS256", iss: client, aud: "x", notBefore: now, expiration: now + 300, want: 400},
		{summary: "expired", algorithm: "PS256", iss: client, aud: place, notBefore: now - 400, expiration: now - 100,
			want: 400},
		{summary: "too long", algorithm: "PS256", iss: client, aud: place, notBefore: now, expiration: now + 600, want: 400},
	} {
		claims, err := json.Marshal(map[string]any{"sub": test.iss, "iss": test.iss, "aud": test.aud,
			"nbf": test.notBefore, "exp": test.expiration})
		if err != nil {
			t.Fatal(err)
		}
		raw := base64.RawURLEncoding.EncodeToString
		signed := raw([]byte(`{"typ":"JWT","alg":"`+test.algorithm+`"}`)) + "." + raw(claims)
		sum := sha256.Sum256([]byte(signed))
		signature, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, sum[:],
			&rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		if test.algorithm == "RS256" {
			signature, err = rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		}
		if err != nil {
			t.Fatal(err)
		}

		resp, err := http.PostForm(place, url.Values{"client_assertion": {signed + "." + raw(signature)}})
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != test.want {
			t.Errorf("%s: status %d, want %d; %v", test.summary, resp.StatusCode, test.want, err)
		}
	}
}

func TestRecordsAndFails(t *testing.T) {
	s, url := serve(t)
	s.Fail(fakegithub.Failure{Path: "/runner-registration", Status: 503, Times: 2})
	body := map[string]string{"url": "https://github.com/acme", "runner_event": "register"}
	for i, want := range []int{503, 503, 200} {
		if got, _ := call(t, "POST", url+"/actions/runner-registration", "RemoteAuth good", body); got != want {
			t.Errorf("call %d: %d, want %d", i, got, want)
		}
	}
	calls := s.Calls()
	if len(calls) != 3 || calls[0].Status != 503 || calls[2].Status != 200 ||
		calls[0].Header.Get("Authorization") != "RemoteAuth good" ||
		calls[0].Body != `{"runner_event":"register","url":"https://github.com/acme"}` {
		t.Errorf("got %+v", calls)
	}
}

func TestControl(t *testing.T) {
	s, url := serve(t)
	c := fakegithub.Client{URL: url}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()

	id, err := c.Enqueue(ctx, miniworker.Job{Name: "x", Steps: []miniworker.Step{{Run: "true"}}})
	if err != nil || id != "job-1" {
		t.Fatal(id, err)
	}

	if err := c.Fail(ctx, fakegithub.Failure{Path: "/x", Status: 409}); err != nil {
		t.Error(err)
	}
	if got, _ := call(t, "GET", url+"/x", "", nil); got != 409 {
		t.Errorf("got %d", got)
	}
	calls, err := c.Calls(ctx)
	if err != nil || len(calls) != 1 || calls[0].Path != "/x" {
		t.Errorf("got %+v, %v", calls, err)
	}
	if r, err := c.Runners(ctx); err != nil || len(r) != 0 {
		t.Error(r, err)
	}

	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	if _, err := c.Wait(short, id); err == nil {
		t.Error("a job nobody runs is done")
	}
	if _, err := s.Wait(short, "job-9"); err == nil {
		t.Error("a job that is not there is done")
	}
}
