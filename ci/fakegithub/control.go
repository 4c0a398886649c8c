package fakegithub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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
	s.mux.HandleFunc("GET /_control/calls", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK,
			s.Calls())
	})
	s.mux.HandleFunc("GET /_control/runners", func(w http.ResponseWriter,
		_ *http.Request) {
		writeJSON(w, http.StatusOK, s.Runners())
	})
	s.mux.HandleFunc("POST /_control/fail", func(w http.ResponseWriter, r *http.Request) {
		var f Failure
		if readJSON(w, r, &f) {
			s.Fail(f)
			w.WriteHeader(http.StatusNoContent)
		}
	})
	s.mux.HandleFunc("POST /_control/drop-sessions", func(w http.ResponseWriter, _ *http.Request) {
		s.DropSessions()
		w.WriteHeader(http.StatusNoContent)
	})
	s.mux.HandleFunc("POST /_control/exit", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Status int }
		if readJSON(w, r, &in) {
			s.ExitListener(in.Status)
			w.WriteHeader(http.StatusNoContent)
		}
	})
	s.mux.HandleFunc("POST /_control/jobs", func(w http.ResponseWriter, r *http.Request) {
		var j miniworker.Job
		if readJSON(w, r, &j) {
			writeJSON(w, http.StatusCreated, map[string]string{"id": s.Enqueue(j)})
		}
	})
	s.mux.HandleFunc("GET /_control/jobs/{job}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if j := s.job(r.PathValue("job")); j != nil {
			writeJSON(w, http.StatusOK, j)
			return
		}
		writeError(w, http.StatusNotFound, "Not Found")
	})
	s.mux.HandleFunc("POST /_control/jobs/{job}/cancel", func(w http.ResponseWriter, r *http.Request) {
		s.Cancel(r.PathValue("job"))
		w.WriteHeader(http.StatusNoContent)
	})
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
