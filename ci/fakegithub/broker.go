package fakegithub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/mkappliance/mkappliance/ci/protocol"
)

// Paths of the services.
const (
	tenantPath  = "/_services/tenant"
	tokenPath   = "/_services/oauth/token"
	runPath     = "/_services/run"
	resultsPath = "/_services/results"
	launchPath  = "/_services/launch"
)

func (s *Server) brokerRoutes() {
	s.mux.HandleFunc("POST "+tenantPath+"/session", s.openSession)
	s.mux.HandleFunc("DELETE "+tenantPath+"/session", s.closeSession)
	s.mux.HandleFunc("GET "+tenantPath+"/message", s.nextMessage)
	s.mux.HandleFunc("POST "+tenantPath+"/acknowledge", s.acknowledge)
}

func bearer(r *http.Request) string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}

// caller finds the runner by its access token. The caller of it holds mu.
func (s *Server) caller(w http.ResponseWriter, r *http.Request) *Runner {
	token := bearer(r)
	for _, runner := range s.runners {
		if runner.access[token] {
			return runner
		}
	}
	writeError(w, http.StatusUnauthorized, "Bad credentials")
	return nil
}

// openSession allows one session per runner, 409 otherwise.
func (s *Server) openSession(w http.ResponseWriter, r *http.Request) {
	var in map[string]any
	if !readJSON(w, r, &in) {
		return
	}
	agent, _ := in["agent"].(map[string]any)
	version, _ := agent["version"].(string)

	s.mu.Lock()
	defer s.mu.Unlock()
	runner := s.caller(w, r)
	if runner == nil {
		return
	}
	switch status := s.refused[version]; status {
	case 0:
	case http.StatusForbidden:
		writeJSON(w, status, tooOld(version))
		return
	default:
		writeError(w, status, "No session for version "+version)
		return
	}
	if runner.session != "" {
		writeError(w, http.StatusConflict, "TaskAgentSessionConflictException")
		return
	}
	runner.session, runner.Status = randomUUID(), "online"
	s.notify()
	in["sessionId"] = runner.session
	writeJSON(w, http.StatusOK, in)
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

// nextMessage waits for a message; 202 with no body when there is none.
func (s *Server) nextMessage(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	ctx, cancel := context.WithTimeout(r.Context(), s.opt.PollTimeout)
	defer cancel()
	for r.Context().Err() == nil { // a poll that was cut takes no message
		s.mu.Lock()
		runner := s.caller(w, r)
		if runner == nil {
			s.mu.Unlock()
			return
		}
		if runner.session == "" || query.Get("sessionId") != runner.session {
			s.mu.Unlock()
			writeError(w, http.StatusNotFound, "Session not found")
			return
		}
		message, changed := s.takeMessage(runner, query.Get("status"), origin(r)), s.changed
		s.mu.Unlock()

		if refusal, ok := message.(protocol.BrokerError); ok {
			writeJSON(w, refusal.StatusCode, refusal)
			return
		}
		if message != nil {
			writeJSON(w, http.StatusOK, message)
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done(): // the listener's state has changed, or it is gone
			return
		case <-ctx.Done():
			w.WriteHeader(http.StatusAccepted)
			return
		}
	}
}

// takeMessage returns what waits for a listener: a protocol.BrokerMessage, a
// protocol.BrokerError, or nil. The caller holds mu.
func (s *Server) takeMessage(runner *Runner, status, origin string) any {
	if len(s.exits) > 0 {
		code := s.exits[0]
		s.exits = s.exits[1:]
		switch code {
		case notFoundStatus:
			return brokerError(protocol.RunnerNotFound, http.StatusNotFound, "Runner not found")
		case tooOldStatus:
			return tooOld(runner.Version)
		}
		return s.message(protocol.DoubleExit, code)
	}

	for _, j := range s.jobs {
		switch {
		case j.Cancel && !j.cancelSent && j.runner == runner.ID && j.State == jobRunning:
			j.cancelSent = true
			return s.message(protocol.JobCancellation, protocol.Cancellation{JobID: j.guid, Timeout: "00:05:00"})
		// A job whose message did not arrive is sent again.
		case status == "Online" && (j.State == jobQueued || j.State == jobSent && j.runner == runner.ID):
			j.State, j.runner = jobSent, runner.ID
			return s.message(protocol.RunnerJobRequest, protocol.JobRequest{ID: j.guid, RunnerRequestID: j.request,
				ShouldAcknowledge: true, RunServiceURL: origin + runPath, BillingOwnerID: "U_kgAA"})
		}
	}
	return nil
}

// Exit statuses of the listener after RunnerNotFound and RunnerVersionTooOld.
const (
	notFoundStatus = 0
	tooOldStatus   = 7
)

func brokerError(kind string, status int, message string) protocol.BrokerError {
	return protocol.BrokerError{Source: "actions-broker-listener", ErrorKind: kind, StatusCode: status, Message: message}
}

func tooOld(version string) protocol.BrokerError {
	return brokerError(protocol.RunnerVersionTooOld, http.StatusForbidden,
		"Runner version v"+version+" is deprecated and cannot receive messages.")
}

// RefuseVersion opens no session for listeners of a version: 403 answers that it is
// too old, another status that something is wrong; 0 lifts it.
func (s *Server) RefuseVersion(version string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[version] = status
}

// message returns a message with a body, which is JSON in JSON. The caller holds
// mu.
func (s *Server) message(kind string, body any) protocol.BrokerMessage {
	text, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("cannot encode %T: %v", body, err))
	}
	s.messages++
	return protocol.BrokerMessage{MessageID: s.messages, MessageType: kind, Body: string(text)}
}

func (s *Server) acknowledge(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.caller(w, r) != nil {
		w.WriteHeader(http.StatusOK)
	}
}

// ExitListener makes the listener that asks next end with this status
// (Constants.ReturnCode): 0 and 7 by the answers that lead to them, RunnerNotFound
// and RunnerVersionTooOld, others as for reasons of its own.
func (s *Server) ExitListener(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exits = append(s.exits, status)
	s.notify()
}
