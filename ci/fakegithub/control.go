package fakegithub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// The control endpoints, beneath /_control/:
//
//	GET  calls            every recorded call
//	GET  runners          registered runners
//	POST fail             a Failure
//	POST drop-sessions    as DropSessions
//	POST exit             {"status"}, as ExitListener
//	POST jobs             a miniworker.Job; answers {"id"}
//	GET  jobs/ID          state, log and result
//	POST jobs/ID/cancel   as Cancel
func (s *Server) controlRoutes() {
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET calls":              s.controlCalls,
		"GET runners":            s.controlRunners,
		"POST fail":              s.controlFail,
		"POST drop-sessions":     s.controlDropSessions,
		"POST exit":              s.controlExit,
		"POST jobs":              s.controlEnqueue,
		"GET jobs/{job}":         s.controlJob,
		"POST jobs/{job}/cancel": s.controlCancel,
	} {
		method, path, _ := strings.Cut(pattern, " ")
		s.mux.HandleFunc(method+" /_control/"+path, handler)
	}
}

func (s *Server) controlCalls(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.Calls())
}

func (s *Server) controlRunners(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, s.Runners())
}

func (s *Server) controlFail(w http.ResponseWriter, r *http.Request) {
	var f Failure
	if readJSON(w, r, &f) {
		s.Fail(f)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Server) controlDropSessions(w http.ResponseWriter, _ *http.Request) {
	s.DropSessions()
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) controlExit(w http.ResponseWriter, r *http.Request) {
	var in struct{ Status int }
	if readJSON(w, r, &in) {
		s.ExitListener(in.Status)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Server) controlEnqueue(w http.ResponseWriter, r *http.Request) {
	var j miniworker.Job
	if readJSON(w, r, &j) {
		writeJSON(w, http.StatusCreated, map[string]string{"id": s.Enqueue(j)})
	}
}

func (s *Server) controlJob(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.job(r.PathValue("job"))
	if j == nil {
		writeError(w, http.StatusNotFound, "Not Found")
		return
	}
	writeJSON(w, http.StatusOK, j)
}

func (s *Server) controlCancel(w http.ResponseWriter, r *http.Request) {
	s.Cancel(r.PathValue("job"))
	w.WriteHeader(http.StatusNoContent)
}

// Client controls a server in another process.
type Client struct{ URL string }

// Calls returns what the server was asked so far.
func (c Client) Calls(ctx context.Context) (calls []Call, err error) {
	err = c.do(ctx, http.MethodGet, "calls", nil, &calls)
	return calls, err
}

// Runners returns the registered runners.
func (c Client) Runners(ctx context.Context) (runners []Runner, err error) {
	err = c.do(ctx, http.MethodGet, "runners", nil, &runners)
	return runners, err
}

// Fail makes later requests fail.
func (c Client) Fail(ctx context.Context, f Failure) error {
	return c.do(ctx, http.MethodPost, "fail", f, nil)
}

// Enqueue queues a job and returns its id.
func (c Client) Enqueue(ctx context.Context, j miniworker.Job) (string, error) {
	var out struct{ ID string }
	err := c.do(ctx, http.MethodPost, "jobs", j, &out)
	return out.ID, err
}

// Wait polls until a job is completed.
func (c Client) Wait(ctx context.Context, id string) (miniworker.JobResult, error) {
	for {
		var j job
		if err := c.do(ctx, http.MethodGet, "jobs/"+id, nil, &j); err != nil {
			return miniworker.JobResult{}, err
		}
		if j.Result != nil {
			return *j.Result, nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return miniworker.JobResult{}, fmt.Errorf("cannot wait for %s: %w", id, context.Cause(ctx))
		}
	}
}

func (c Client) do(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+"/_control/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("cannot %s %s: status %d", method, path, resp.StatusCode)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
