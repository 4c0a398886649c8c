// Package fakegithub stands for GitHub in tests: the REST API a runner
// registers with, the token exchange, the broker that hands out scripted jobs,
// and the services that a job calls: run service, results, blobs, actions. Every
// call is recorded with its answer.
//
// The calls are those of the actions runner 2.336.0 with use_v2_flow; their
// bodies are in ci/protocol. The live log, a websocket, is left out. A call with
// the wrong authorization scheme or token is refused.
//
// The runner drops the port of --url, so the server must be at port 80 or 443:
// Listen finds an address.
//
// Tests in the same process use the methods; those that run the server
// elsewhere use the same over HTTP, beneath /_control/, through Client.
package fakegithub

import (
	"bytes"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say what the server accepts.
type Options struct {
	// Tokens are the registration tokens that are valid. None means any.
	// A token of the list serves to remove runners too.
	Tokens []string
	// PollTimeout is how long a message request waits; default 50 s as GitHub.
	PollTimeout time.Duration
	// Runners are registered from the start: copies of another server's, which keep
	// their keys.
	Runners []Runner
}

// Call is one recorded request.
type Call struct {
	Time   time.Time   `json:"time"`
	Method string      `json:"method"`
	Path   string      `json:"path"` // with query
	Header http.Header `json:"header"`
	Body   string      `json:"body,omitempty"`
	Status int         `json:"status"`
	Answer string      `json:"answer,omitempty"` // the answer's body, if it is JSON
}

// Runner is a registered runner.
type Runner struct {
	ID       int      `json:"id"`
	Name     string   `json:"name"`
	Labels   []string `json:"labels"`
	Group    int      `json:"runner_group_id"`
	Version  string   `json:"version"`
	Status   string   `json:"status"` // "online" while a session is open, else "offline"
	Entity   string   `json:"entity"` // path of the URL it serves, such as acme/widgets
	ClientID string   `json:"client_id"`

	PublicKey *rsa.PublicKey  `json:"public_key"` // what proves the registration
	access    map[string]bool // bearer tokens issued to this runner
	session   string
}

// Failure makes requests fail on purpose.
type Failure struct {
	Path   string `json:"path"` // matches when the request's path ends in it
	Status int    `json:"status"`
	Times  int    `json:"times"` // how often; 0 means until the next Fail for that path
}

// Server is the fake. Make it with New; it is an http.Handler.
type Server struct {
	opt Options
	mux *http.ServeMux

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change of state
	calls    []Call
	runners  map[int]*Runner
	nextID   int
	failures []Failure
	refused  map[string]int // statuses of RefuseVersion
	jobs     []*job
	blobs    map[string]*blob
	exits    []int // statuses ordered by ExitListener
	messages int   // how many messages were sent
}

// New makes a server with nothing registered.
func New(opt Options) *Server {
	if opt.PollTimeout == 0 {
		opt.PollTimeout = 50 * time.Second
	}
	s := &Server{opt: opt, mux: http.NewServeMux(), changed: make(chan struct{}),
		runners: map[int]*Runner{}, nextID: 1, blobs: map[string]*blob{}, refused: map[string]int{}}
	for _, r := range opt.Runners {
		r.Status, r.session, r.access = "offline", "", map[string]bool{}
		s.runners[r.ID] = &r
		s.nextID = max(s.nextID, r.ID+1)
	}
	s.routes()
	return s
}

// ServeHTTP records the request, then answers it. Requests beneath /_control/
// are not recorded.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/_control/") {
		s.mux.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	at := s.record(Call{Time: time.Now().UTC(), Method: r.Method, Path: r.URL.RequestURI(), Header: r.Header.Clone(),
		Body: string(body)})
	sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	if status := s.failureFor(r.URL.Path); status != 0 {
		writeError(sw, status, http.StatusText(status))
	} else {
		// The same API lies beneath /api/v3 (GitHub Enterprise Server, which
		// is what a runner takes any host but github.com for).
		http.StripPrefix(apiPrefix(r.URL.Path), s.mux).ServeHTTP(sw, r)
	}
	s.mu.Lock()
	s.calls[at].Status, s.calls[at].Answer = sw.status, sw.json.String()
	s.mu.Unlock()
}

func apiPrefix(path string) string {
	if strings.HasPrefix(path, "/api/v3/") {
		return "/api/v3"
	}
	return ""
}

func (s *Server) record(c Call) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, c)
	return len(s.calls) - 1
}

func (s *Server) failureFor(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.failures {
		f := &s.failures[i]
		if !strings.HasSuffix(path, f.Path) {
			continue
		}
		status := f.Status
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				s.failures = slices.Delete(s.failures, i, i+1)
			}
		}
		return status
	}
	return 0
}

// Fail makes later requests fail. Status 0 lifts an earlier Fail of that path.
func (s *Server) Fail(f Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = slices.DeleteFunc(s.failures, func(old Failure) bool { return old.Path == f.Path })
	if f.Status != 0 {
		s.failures = append(s.failures, f)
	}
}

// Calls returns what was asked so far.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Registrations counts the registrations that succeeded, replacing ones too.
func (s *Server) Registrations() int { return Registrations(s.Calls()) }

// Registrations counts the successful registrations among calls.
func Registrations(calls []Call) int {
	n := 0
	for _, c := range calls {
		if c.Method == http.MethodPost && strings.HasSuffix(c.Path, "/actions/runners/register") && c.Status < 300 {
			n++
		}
	}
	return n
}

// Runners returns the registered runners, oldest first.
func (s *Server) Runners() []Runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Runner
	for _, r := range s.runners {
		all = append(all, *r)
	}
	slices.SortFunc(all, func(a, b Runner) int { return a.ID - b.ID })
	return all
}

// Forget deletes all runners, as somebody may in a browser.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.runners)
	s.notify()
}

// notify wakes all who wait. The caller holds mu.
func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// statusWriter keeps what is recorded of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
	json   bytes.Buffer
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		w.json.Write(p)
	}
	return w.ResponseWriter.Write(p)
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		panic(fmt.Sprintf("cannot encode %T: %v", v, err))
	}
}

func writeError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]string{"message": message})
}

func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		writeError(w, http.StatusBadRequest, "Problems parsing JSON")
		return false
	}
	return true
}
