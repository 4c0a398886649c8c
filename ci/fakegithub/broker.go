package fakegithub

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/ci/miniworker"
)

// Message is what a listener gets from the broker: a job to run, or, with
// Exit, the wish that it end with that status.
type Message struct {
	JobID string          `json:"job_id,omitempty"`
	Job   *miniworker.Job `json:"job,omitempty"`
	Exit  *int            `json:"exit,omitempty"`
}

func (s *Server) brokerRoutes() {
	s.mux.HandleFunc("POST /_broker/session", s.openSession)
	s.mux.HandleFunc("DELETE /_broker/session", s.closeSession)
	s.mux.HandleFunc("GET /_broker/message", s.nextMessage)
	s.mux.HandleFunc("POST /_run/{job}/log", s.appendLog)
	s.mux.HandleFunc("POST /_run/{job}/renew", s.renew)
	s.mux.HandleFunc("POST /_run/{job}/complete", s.complete)
}

// caller finds the runner by its access token. The caller of it holds mu.
func (s *Server) caller(w http.ResponseWriter, r *http.Request) *Runner {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	for _, runner := range s.runners {
		if ok && runner.access != "" && runner.access == token {
			return runner
		}
	}
	writeError(w, http.StatusUnauthorized, "Bad credentials")
	return nil
}

// openSession allows one session per runner, 409 otherwise.
func (s *Server) openSession(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	runner := s.caller(w, r)
	if runner == nil {
		return
	}
	if runner.session != "" {
		writeError(w, http.StatusConflict, "TaskAgentSessionConflictException")
		return
	}
	runner.session, runner.Status = randomUUID(), "online"
	s.notify()
	writeJSON(w, http.StatusOK, map[string]string{"sessionId": runner.session})
}

func (s *Server) closeSession(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if runner := s.caller(w, r); runner != nil {
		runner.session, runner.Status = "", "offline"
		s.notify()
		w.WriteHeader(http.StatusNoContent)
	}
}

// DropSessions forgets all sessions, as GitHub does some minutes after a
// runner lost power.
func (s *Server) DropSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runners {
		r.session, r.Status = "", "offline"
	}
	s.notify()
}

// nextMessage waits for a job; 202 with no body when there is none.
func (s *Server) nextMessage(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), s.opt.PollTimeout)
	defer cancel()
	for {
		s.mu.Lock()
		runner := s.caller(w, r)
		if runner == nil {
			s.mu.Unlock()
			return
		}
		message, changed := s.takeMessage(), s.changed
		s.mu.Unlock()
		if message != nil {
			writeJSON(w, http.StatusOK, message)
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			w.WriteHeader(http.StatusAccepted)
			return
		}
	}
}

// takeMessage returns what waits for a listener, or nil. The caller holds mu.
func (s *Server) takeMessage() *Message {
	if len(s.exits) > 0 {
		status := s.exits[0]
		s.exits = s.exits[1:]
		return &Message{Exit: &status}
	}
	for _, j := range s.jobs {
		if j.State == "queued" {
			j.State = "running"
			s.notify()
			return &Message{JobID: j.ID, Job: &j.Job}
		}
	}
	return nil
}

// ExitListener makes the listener that asks next end with this status, as the
// real one would for reasons of its own (Constants.ReturnCode).
func (s *Server) ExitListener(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exits = append(s.exits, status)
	s.notify()
}

// runningJob finds the job a runner reports on. The caller holds mu.
func (s *Server) runningJob(w http.ResponseWriter, r *http.Request) *job {
	if s.caller(w, r) == nil {
		return nil
	}
	if j := s.job(r.PathValue("job")); j != nil && j.State == "running" {
		return j
	}
	writeError(w, http.StatusNotFound, "Not Found")
	return nil
}

func (s *Server) job(id string) *job {
	for _, j := range s.jobs {
		if j.ID == id {
			return j
		}
	}
	return nil
}

func (s *Server) appendLog(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Lines []string `json:"lines"`
	}
	if !readJSON(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.runningJob(w, r); j != nil {
		j.Log = append(j.Log, in.Lines...)
		s.notify()
		w.WriteHeader(http.StatusNoContent)
	}
}

// renew keeps the job's lock and reports whether the job was cancelled.
func (s *Server) renew(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.runningJob(w, r); j != nil {
		writeJSON(w, http.StatusOK, map[string]bool{"cancel": j.Cancel})
	}
}

func (s *Server) complete(w http.ResponseWriter, r *http.Request) {
	var result miniworker.JobResult
	if !readJSON(w, r, &result) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.runningJob(w, r); j != nil {
		j.State, j.Result = "completed", &result
		s.notify()
		w.WriteHeader(http.StatusNoContent)
	}
}

// Enqueue queues a job for the next runner that asks, and returns its id.
func (s *Server) Enqueue(j miniworker.Job) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := fmt.Sprintf("job-%d", len(s.jobs)+1)
	s.jobs = append(s.jobs, &job{ID: id, Job: j, State: "queued", Log: []string{}})
	s.notify()
	return id
}

// Cancel asks the runner to cancel a job, as the button in a browser does.
func (s *Server) Cancel(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.job(id); j != nil {
		j.Cancel = true
		s.notify()
	}
}

// Log returns the lines a job has written so far.
func (s *Server) Log(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.job(id); j != nil {
		return append([]string(nil), j.Log...)
	}
	return nil
}

// Wait waits until a job is completed.
func (s *Server) Wait(ctx context.Context, id string) (miniworker.JobResult, error) {
	var result miniworker.JobResult
	err := s.until(ctx, func() bool {
		j := s.job(id)
		if j == nil || j.Result == nil {
			return false
		}
		result = *j.Result
		return true
	})
	if err != nil {
		return result, fmt.Errorf("cannot wait for %s: %w", id, err)
	}
	return result, nil
}

// WaitOnline waits until n runners have a session.
func (s *Server) WaitOnline(ctx context.Context, n int) error {
	return s.until(ctx, func() bool {
		online := 0
		for _, r := range s.runners {
			if r.Status == "online" {
				online++
			}
		}
		return online == n
	})
}

// until waits until done, called with mu held, is true.
func (s *Server) until(ctx context.Context, done func() bool) error {
	for {
		s.mu.Lock()
		ok, changed := done(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Second): // never needed, and a cheap guard
		}
	}
}
