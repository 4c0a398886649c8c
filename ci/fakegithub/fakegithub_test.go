package fakegithub_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/mkappliance/mkappliance/ci/fakegithub"
	"github.com/mkappliance/mkappliance/ci/miniworker"
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
