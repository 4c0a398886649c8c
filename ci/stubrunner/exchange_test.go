package stubrunner_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mkappliance/mkappliance/ci/fakegithub"
	"github.com/mkappliance/mkappliance/ci/miniworker"
	"github.com/mkappliance/mkappliance/ci/protocol"
	"github.com/mkappliance/mkappliance/ci/stubrunner"
)

// An exchange is a call of the real runner 2.336.0 and its answer, as recorded.
type exchange struct {
	summary string
	method  string
	path    string // {} stands for an id
	auth    string // scheme, and which token
	body    string // members; one that is listed covers those beneath it
	status  int
	answer  string // members
	// anyTime is for a call that comes between others, optional for one that may
	// not come at all.
	anyTime, optional bool
}

const (
	pollQuery = "?sessionId={}&status=Online&runnerVersion=2.336.0&os=Linux&architecture=X64"
	receiver  = "/_services/results/twirp/results.services.receiver.Receiver/"
	ids       = "workflow_job_run_backend_id workflow_run_backend_id"
)

// exchanges are in the order of the first of each.
var exchanges = []exchange{
	{
		summary: "registration", method: "POST", path: "/api/v3/actions/runner-registration",
		auth: "RemoteAuth REGISTRATION", body: "url runner_event",
		status: 200, answer: "url token_schema token use_v2_flow",
	},
	{
		summary: "groups", method: "GET", path: "/api/v3/repos/acme/widgets/actions/runner-groups",
		auth: "RemoteAuth REGISTRATION", status: 200,
		answer: "total_count runner_groups[].id runner_groups[].name runner_groups[].default runner_groups[].is_hosted",
	},
	{
		summary: "runners of the name", method: "GET", path: "/api/v3/repos/acme/widgets/actions/runners?name=rack-4",
		auth: "RemoteAuth REGISTRATION", status: 200, answer: "total_count",
	},
	{
		summary: "register", method: "POST", path: "/api/v3/actions/runners/register", auth: "RemoteAuth REGISTRATION",
		body:   "url group_id name version updates_disabled ephemeral labels[].id labels[].name labels[].type public_key",
		status: 200,
		answer: "id name authorization.authorization_url authorization.server_url authorization.client_id",
	},
	{
		summary: "token", method: "POST", path: "/_services/oauth/token",
		body: "grant_type client_assertion_type client_assertion", status: 200,
		answer: "access_token expires_in token_type",
	},
	{
		summary: "session", method: "POST", path: "/_services/tenant/session", auth: "Bearer ACCESS",
		body: "sessionId ownerName useFipsEncryption agent.id agent.name agent.version agent.osDescription " +
			"agent.ephemeral agent.status agent.provisioningState",
		status: 200, answer: "sessionId ownerName useFipsEncryption agent",
	},
	{
		summary: "nothing", method: "GET", path: "/_services/tenant/message" + pollQuery + "&disableUpdate=true",
		auth: "Bearer ACCESS", status: 202, anyTime: true, optional: true,
	},
	{
		// The session ended before the server saw that the poll was cut.
		summary: "cut at the end", method: "GET", path: "/_services/tenant/message" + pollQuery + "&disableUpdate=true",
		auth: "Bearer ACCESS", status: 404, answer: "message", anyTime: true, optional: true,
	},
	{
		summary: "a job", method: "GET", path: "/_services/tenant/message" + pollQuery + "&disableUpdate=true",
		auth: "Bearer ACCESS", status: 200, answer: "messageId messageType body",
	},
	{
		summary: "acknowledge", method: "POST", path: "/_services/tenant/acknowledge" + pollQuery,
		auth: "Bearer ACCESS", body: "runnerRequestId", status: 200,
	},
	{
		summary: "acquire", method: "POST", path: "/_services/run/acquirejob", auth: "Bearer ACCESS",
		body: "jobMessageId runnerOS billingOwnerId", status: 200,
		answer: "messageType plan timeline jobId jobDisplayName jobName requestId lockedUntil resources variables " +
			"contextData mask environmentVariables defaults fileTable steps jobContainer jobServiceContainers " +
			"jobOutputs billingOwnerId",
	},
	{
		summary: "renew", method: "POST", path: "/_services/run/renewjob", auth: "Bearer JOB", body: "planId jobId",
		status: 200, answer: "lockedUntil",
	},
	{
		summary: "busy", method: "GET", auth: "Bearer ACCESS", status: 200, answer: "messageId messageType body",
		path:    "/_services/tenant/message" + strings.Replace(pollQuery, "Online", "Busy", 1) + "&disableUpdate=true",
		anyTime: true, // a cancellation
	},
	{
		summary: "busy, nothing", method: "GET", auth: "Bearer ACCESS", status: 202, anyTime: true, optional: true,
		path: "/_services/tenant/message" + strings.Replace(pollQuery, "Online", "Busy", 1) + "&disableUpdate=true",
	},
	{
		summary: "resolve actions", method: "POST",
		path: "/_services/launch/actions/build/{}/jobs/{}/runnerresolve/actions", auth: "Bearer JOB",
		body: "actions[].action actions[].version", status: 200, answer: "actions",
	},
	{
		summary: "download an action", method: "GET", path: "/_codeload/{}", auth: "Basic x-access-token:GITHUB_TOKEN",
		status: 200,
	},
	{
		summary: "steps", method: "POST", auth: "Bearer JOB", status: 200, answer: "ok", anyTime: true,
		path: "/_services/results/twirp/github.actions.results.api.v1.WorkflowStepUpdateService/WorkflowStepsUpdate",
		body: "steps[].external_id steps[].number steps[].name steps[].status steps[].started_at steps[].completed_at " +
			"steps[].conclusion change_order " + ids,
	},
	{
		summary: "place of a step's log", method: "POST", path: receiver + "GetStepLogsSignedBlobURL", auth: "Bearer JOB",
		body: ids + " step_backend_id", status: 200, answer: "logs_url blob_storage_type soft_size_limit",
	},
	{summary: "log", method: "PUT", path: "/_blobs/{}", body: "TEXT-WITH-BYTE-ORDER-MARK", status: 201},
	{
		summary: "end of a step's log", method: "POST", path: receiver + "CreateStepLogsMetadata", auth: "Bearer JOB",
		body: ids + " step_backend_id uploaded_at line_count", status: 200, answer: "ok",
	},
	{
		summary: "place of the job's log", method: "POST", path: receiver + "GetJobLogsSignedBlobURL",
		auth: "Bearer JOB", body: ids, status: 200, answer: "logs_url blob_storage_type soft_size_limit",
	},
	{
		summary: "end of the job's log", method: "POST", path: receiver + "CreateJobLogsMetadata", auth: "Bearer JOB",
		body: ids + " uploaded_at line_count", status: 200, answer: "ok",
	},
	{
		summary: "place of a summary", method: "POST", path: receiver + "GetStepSummarySignedBlobURL",
		auth: "Bearer JOB", body: ids + " step_backend_id", status: 200,
		answer: "summary_url blob_storage_type soft_size_limit",
	},
	{summary: "summary", method: "PUT", path: "/_blobs/{}", body: "TEXT", status: 201},
	{
		summary: "end of a summary", method: "POST", path: receiver + "CreateStepSummaryMetadata", auth: "Bearer JOB",
		body: ids + " step_backend_id uploaded_at size", status: 200, answer: "ok",
	},
	{
		summary: "complete", method: "POST", path: "/_services/run/completejob", auth: "Bearer JOB", status: 200,
		body: "planId jobId conclusion outputs annotations telemetry billingOwnerId stepResults[].external_id " +
			"stepResults[].number stepResults[].name stepResults[].action_name stepResults[].type " +
			"stepResults[].status stepResults[].conclusion stepResults[].started_at stepResults[].completed_at " +
			"stepResults[].annotations",
	},
	{
		summary: "end of the session", method: "DELETE", path: "/_services/tenant/session", auth: "Bearer ACCESS",
		status: 204,
	},
	{
		summary: "remove", method: "DELETE", path: "/api/v3/repos/acme/widgets/actions/runners/1",
		auth: "RemoteAuth REMOVAL", status: 204,
	},
}

// TestExchange registers, runs jobs and removes the registration, and compares
// each call and each answer with exchanges: it checks both doubles.
func TestExchange(t *testing.T) {
	r := newRunner(t)
	r.configure()
	r.checkFiles()
	l := r.start()
	action := t.TempDir()
	if err := os.WriteFile(filepath.Join(action, "index.js"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	result := r.job(miniworker.Job{Name: "build", Repository: "acme/widgets",
		Actions: map[string]string{"acme/hello/v1": action},
		Steps: []miniworker.Step{
			{Name: "say", Run: "echo hello\necho '# fine' >>$GITHUB_STEP_SUMMARY\nexit 3", ContinueOnError: true},
			{Name: "act", Action: "acme/hello/v1", Main: "index.js"},
		}})
	say, act := result.Step("say"), result.Step("act")
	if result.Conclusion != miniworker.Success || say.Exit != 3 || !slices.Equal(say.Output, []string{"hello"}) ||
		say.Summary != "# fine\n" || !slices.Equal(say.Errors, []string{"Process completed with exit code 3."}) ||
		!strings.HasPrefix(strings.Join(act.Output, "\n"), "stub node: "+r.path("_work/_actions/acme/hello/v1/index.js")) {
		t.Errorf("got %s", result)
	}

	started := r.path("started")
	id := r.github.Enqueue(miniworker.Job{Name: "long", Steps: []miniworker.Step{
		{Name: "long", Run: "touch " + started + "; exec sleep 60"}, {Name: "always", Run: "true", If: "always"}}})
	waitForFile(t, started)
	r.github.Cancel(id)
	result = r.wait(id)
	if result.Conclusion != miniworker.Cancelled || result.Step("always").Conclusion != miniworker.Success {
		t.Errorf("got %s", result)
	}

	l.waitForJobs(2)
	l.stop()
	r.run("config.sh", "remove", "--token", removalToken)
	l.wantLines("√ Connected to GitHub", "Current runner version: '2.336.0'", "TIME: Listening for Jobs",
		"TIME: Running job: build", "TIME: Job build completed with result: Succeeded",
		"TIME: Running job: long", "TIME: Job long completed with result: Canceled", "Exiting...")
	checkExchanges(t, r.github.Calls())
}

// checkExchanges compares each call with its row.
func checkExchanges(t *testing.T, calls []fakegithub.Call) {
	t.Helper()
	tokens := map[string]string{registrationToken: "REGISTRATION", removalToken: "REMOVAL"}
	seen, last := map[string]bool{}, 0
	for _, c := range calls {
		if c.Status == http.StatusOK && c.Answer == "" && strings.Contains(c.Path, "/message?") {
			continue // cut by the listener
		}
		learnTokens(t, tokens, c)
		i := slices.IndexFunc(exchanges, func(e exchange) bool { return e.matches(c) })
		if i < 0 {
			t.Errorf("no exchange is like %s %s, %v -> %d", c.Method, c.Path, members(c.Header, c.Body), c.Status)
			continue
		}
		e := exchanges[i]
		if !seen[e.summary] && !e.anyTime {
			if i < last {
				t.Errorf("%s came after %s", e.summary, exchanges[last].summary)
			}
			last = i
		}
		seen[e.summary] = true

		if got := authorization(tokens, c); got != e.auth {
			t.Errorf("%s: authorization %q, want %q", e.summary, got, e.auth)
		}
		checkMembers(t, e.summary+", body", members(c.Header, c.Body), e.body)
		checkMembers(t, e.summary+", answer", members(nil, c.Answer), e.answer)
	}
	for _, e := range exchanges {
		if !seen[e.summary] && !e.optional {
			t.Errorf("%s never came", e.summary)
		}
	}
}

// matches reports whether a call is of this row, by method, path, status and, for
// blobs, kind of text.
func (e exchange) matches(c fakegithub.Call) bool {
	pattern := "^" + strings.ReplaceAll(regexp.QuoteMeta(e.path), `\{\}`, "[^/&?]+") + "$"
	if e.method != c.Method || e.status != c.Status || !regexp.MustCompile(pattern).MatchString(c.Path) {
		return false
	}
	return e.method != "PUT" || slices.Equal(members(c.Header, c.Body), []string{e.body})
}

// learnTokens notes the tokens that an answer issues.
func learnTokens(t *testing.T, tokens map[string]string, c fakegithub.Call) {
	t.Helper()
	var token struct {
		AccessToken string `json:"access_token"`
	}
	var m protocol.JobMessage
	switch {
	case strings.HasSuffix(c.Path, "/oauth/token"):
		if err := json.Unmarshal([]byte(c.Answer), &token); err != nil {
			t.Fatal(err)
		}
		tokens[token.AccessToken] = "ACCESS"
	case strings.HasSuffix(c.Path, "/acquirejob"):
		if err := json.Unmarshal([]byte(c.Answer), &m); err != nil {
			t.Fatal(err)
		}
		tokens[m.Resources.Endpoints[0].Token()] = "JOB"
		tokens[m.GitHubToken()] = "x-access-token:GITHUB_TOKEN"
	}
}

// authorization names the scheme and the token of a call.
func authorization(tokens map[string]string, c fakegithub.Call) string {
	request := http.Request{Header: c.Header}
	if _, password, ok := request.BasicAuth(); ok {
		return "Basic " + tokens[password]
	}
	scheme, token, ok := strings.Cut(c.Header.Get("Authorization"), " ")
	if !ok {
		return ""
	}
	return scheme + " " + tokens[token]
}

// members returns the paths of the members of a body.
func members(header http.Header, body string) []string {
	switch contentType := header.Get("Content-Type"); {
	case body == "":
		return nil
	case strings.HasPrefix(contentType, "text/plain") && strings.HasPrefix(body, protocol.ByteOrderMark):
		return []string{"TEXT-WITH-BYTE-ORDER-MARK"}
	case strings.HasPrefix(contentType, "text/plain"):
		return []string{"TEXT"}
	case strings.HasPrefix(contentType, "application/x-www-form-urlencoded"):
		form, _ := url.ParseQuery(body)
		var all []string
		for key := range form {
			all = append(all, key)
		}
		return all
	}
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		return []string{"not JSON"}
	}
	return flatten("", v)
}

func flatten(path string, v any) []string {
	var all []string
	switch v := v.(type) {
	case map[string]any:
		for key, member := range v {
			all = append(all, flatten(strings.TrimPrefix(path+"."+key, "."), member)...)
		}
	case []any:
		for _, item := range v {
			all = append(all, flatten(path+"[]", item)...)
		}
	}
	if len(all) == 0 {
		all = []string{path}
	}
	return all
}

// checkMembers wants each member in the list, or beneath one of it, and each of
// the list there.
func checkMembers(t *testing.T, what string, got []string, want string) {
	t.Helper()
	list := strings.Fields(want)
	covers := func(listed, member string) bool {
		rest, ok := strings.CutPrefix(member, listed)
		return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
	}
	for _, member := range got {
		if !slices.ContainsFunc(list, func(listed string) bool { return covers(listed, member) }) &&
			!strings.HasSuffix(member, "[]") && member != "runners" {
			t.Errorf("%s: unexpected %q", what, member)
		}
	}
	for _, listed := range list {
		if !slices.ContainsFunc(got, func(member string) bool { return covers(listed, member) }) {
			// The steps that still run have no such members.
			if !strings.HasSuffix(listed, ".completed_at") {
				t.Errorf("%s: no %q in %q", what, listed, got)
			}
		}
	}
}

// TestWorkerWithoutResult: what a worker writes that ends without a result of the
// job becomes the job's annotation.
func TestWorkerWithoutResult(t *testing.T) {
	r := newRunner(t)
	r.configure()
	for _, test := range []struct {
		summary string
		worker  string
		want    miniworker.JobResult
		line    string
	}{
		{
			summary: "status 1", worker: "echo '[WORKER 1] quiet'; echo on output; echo on error >&2; exit 1",
			want: miniworker.JobResult{Conclusion: miniworker.Failure,
				Annotations: []string{"failure: on output\non error"}},
		},
		{
			summary: "killed", worker: "kill -9 $$",
			want: miniworker.JobResult{Conclusion: miniworker.Failure, Annotations: []string{"failure: "}},
		},
		{
			summary: "arguments, environment and directory",
			worker:  `test "$CI $GITHUB_ACTIONS" = "true true" && pwd; echo "$*"; test -p /dev/fd/$2 && echo pipe; exit 9`,
			want: miniworker.JobResult{Conclusion: miniworker.Failure,
				Annotations: []string{"failure: " + r.path("bin") + "\nspawnclient 143 161\npipe"}},
		},
	} {
		if err := os.WriteFile(r.path("bin/Runner.Worker"), []byte("#!/bin/bash\n"+test.worker+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		l := r.start()
		result := r.job(miniworker.Job{Name: "broken"})
		l.waitForJobs(1)
		l.stop()
		if diff := cmp.Diff(test.want, result); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.summary, diff)
		}
		l.wantLines("√ Connected to GitHub", "Current runner version: '2.336.0'", "TIME: Listening for Jobs",
			"TIME: Running job: broken", "TIME: Job broken completed with result: Failed", "Exiting...")
	}
}

// TestSessionLost: a session that GitHub has forgotten is opened again, a runner
// that it has forgotten removes its files.
func TestSessionLost(t *testing.T) {
	r := newRunner(t)
	r.configure()
	l := r.start()
	if err := r.github.WaitOnline(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.github.DropSessions()
	if result := r.job(miniworker.Job{Name: "later"}); result.Conclusion != miniworker.Success {
		t.Errorf("got %s", result)
	}
	l.waitForJobs(1)
	r.github.ExitListener(0)
	l.wait()
	l.wantLines("√ Connected to GitHub", "Current runner version: '2.336.0'", "TIME: Listening for Jobs",
		"√ Connected to GitHub", "TIME: Running job: later", "TIME: Job later completed with result: Succeeded",
		"The runner no longer exists on the server. Cleaning up local configuration.",
		"√ Removed .credentials", "√ Removed .runner")
	if _, err := os.Stat(r.path(".runner")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf(".runner: %v", err)
	}
}

// TestWorkerAlone starts the worker as the listener does, and reads what it
// reports.
func TestWorkerAlone(t *testing.T) {
	r := newRunner(t)
	r.configure()
	setup := protocol.ByteOrderMark + `[{"group":"Image","detail":"first\nsecond"},{"group":"_internal_x","detail":"y"}]`
	if err := os.WriteFile(r.path(".setup_info"), []byte(setup), 0o644); err != nil {
		t.Fatal(err)
	}
	lowDisk := map[string]string{"system.runner.lowdiskspacethreshold": "1000000000"} // MB
	for _, test := range []struct {
		summary string
		job     miniworker.Job
		stop    int32 // message after the job, 0 for none
		status  int
		want    string // conclusion
	}{
		{
			summary: "success", status: 100, want: miniworker.Success,
			job: miniworker.Job{Variables: lowDisk, Env: map[string]string{"A": "${{ matrix.value }}"},
				Matrix: map[string]string{"value": "from matrix"},
				Steps:  []miniworker.Step{{Name: "env", Run: "test \"$A\" = 'from matrix'; sleep 0.1"}}},
		},
		{
			summary: "failure", status: 102, want: miniworker.Failure,
			job: miniworker.Job{Name: "of two\nlines", Steps: []miniworker.Step{{Run: "exit 1"}}},
		},
		{
			summary: "cancel", stop: protocol.CancelRequest, status: 103, want: miniworker.Cancelled,
			job: miniworker.Job{Steps: []miniworker.Step{{Run: "exec sleep 60"}}},
		},
		{
			summary: "shutdown", stop: protocol.RunnerShutdown, status: 103, want: miniworker.Cancelled,
			job: miniworker.Job{Steps: []miniworker.Step{{Run: "exec sleep 60"},
				{Name: "always", If: "always", Run: "exit 1"}}},
		},
	} {
		id, message, err := r.github.Start(test.job, "http://"+r.addr)
		if err != nil {
			t.Fatal(err)
		}
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		cmd := exec.Command(r.path("bin/Runner.Worker"), "spawnclient", "3", "4")
		cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &out, &out, []*os.File{read, write}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		err = protocol.WritePipe(write, protocol.NewJobRequest, message)
		if test.stop != 0 {
			err = errors.Join(err, protocol.WritePipe(write, test.stop, ""))
		}
		if err := errors.Join(err, write.Close(), read.Close()); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the status is looked at
		if got := cmd.ProcessState.ExitCode(); got != test.status || out.Len() != 0 {
			t.Errorf("%s: status %d, output %q", test.summary, got, out.String())
		}

		result := r.wait(id)
		if result.Conclusion != test.want || result.Step("always").Conclusion == miniworker.Failure {
			t.Errorf("%s: got %s", test.summary, result)
		}
		log := strings.Join(r.github.Log(id), "\n")
		if !strings.Contains(log, "##[group]Image\nfirst\nsecond\n##[endgroup]") || strings.Contains(log, "_internal_") {
			t.Errorf("%s: the log is\n%s", test.summary, log)
		}
		warned := slices.ContainsFunc(result.Annotations, func(a string) bool {
			return strings.HasPrefix(a, "warning: You are running out of disk space.")
		})
		if warned != (test.job.Variables != nil) {
			t.Errorf("%s: annotations are %q", test.summary, result.Annotations)
		}
	}
	if logs, err := filepath.Glob(r.path("_diag/Worker_*-utc.log")); err != nil || len(logs) == 0 {
		t.Errorf("logs are %q, %v", logs, err)
	}
}

const (
	registrationToken = "AABF3JGZDX3P5PMEXLND6TS6FCWO6"
	removalToken      = "AABF3JHPPBMLWEMA2HVYKXLD6TSQ2"
)

// runner is an unpacked stub runner and its GitHub.
type runner struct {
	*testing.T
	dir    string
	addr   string
	github *fakegithub.Server
}

func newRunner(t *testing.T) *runner {
	t.Helper()
	l, err := fakegithub.Listen()
	if errors.Is(err, fakegithub.ErrReserved) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{T: t, dir: t.TempDir(), github: fakegithub.New(fakegithub.Options{
		Tokens: []string{registrationToken, removalToken}, PollTimeout: 5 * time.Second})}
	r.addr, _, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: r.github, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })

	tarball, _, err := stubrunner.Build(t.Context(), t.TempDir(), stubrunner.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-xzf", tarball, "-C", r.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return r
}

func (r *runner) path(name string) string { return filepath.Join(r.dir, name) }

func (r *runner) run(program string, args ...string) {
	r.Helper()
	cmd := exec.Command(r.path(program), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// configure registers at a URL with a port where nobody listens: calls go to
// port 80.
func (r *runner) configure() {
	r.Helper()
	r.run("config.sh", "--unattended", "--url", "http://"+r.addr+":1/acme/widgets", "--token", registrationToken,
		"--name", "rack-4", "--labels", "gpu", "--disableupdate")
}

// checkFiles looks at what the registration has written.
func (r *runner) checkFiles() {
	r.Helper()
	for _, test := range []struct {
		name, members string
		mode          os.FileMode
	}{
		{name: ".runner", mode: 0o644, members: "isHostedServer agentId agentName poolId poolName disableUpdate serverUrl " +
			"gitHubUrl workFolder useV2Flow useRunnerAdminFlow serverUrlV2"},
		{name: ".credentials", mode: 0o644,
			members: "scheme data.clientId data.authorizationUrl data.requireFipsCryptography"},
		{name: ".credentials_rsaparams", mode: 0o600, members: "d dp dq exponent inverseQ modulus p q"},
	} {
		data, err := os.ReadFile(r.path(test.name))
		info, err2 := os.Stat(r.path(test.name))
		if err := errors.Join(err, err2); err != nil {
			r.Fatal(err)
		}
		text, ok := strings.CutPrefix(string(data), protocol.ByteOrderMark)
		if !ok || info.Mode().Perm() != test.mode {
			r.Errorf("%s: byte order mark %v, mode %v", test.name, ok, info.Mode())
		}
		checkMembers(r.T, test.name, members(nil, text), test.members)
	}
}

// job runs a job to its end.
func (r *runner) job(j miniworker.Job) miniworker.JobResult {
	r.Helper()
	return r.wait(r.github.Enqueue(j))
}

func (r *runner) wait(id string) miniworker.JobResult {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	result, err := r.github.Wait(ctx, id)
	if err != nil {
		r.Fatal(err)
	}
	return result
}

// runningListener is a listener under way.
type runningListener struct {
	*runner
	cmd *exec.Cmd
	mu  sync.Mutex
	out bytes.Buffer
}

// Write implements io.Writer.
func (l *runningListener) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (r *runner) start() *runningListener {
	r.Helper()
	l := &runningListener{runner: r, cmd: exec.Command(r.path("run.sh"))}
	l.cmd.Stdout, l.cmd.Stderr = l, l
	if err := l.cmd.Start(); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = l.cmd.Process.Kill() })
	return l
}

func (l *runningListener) stop() {
	l.Helper()
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		l.Fatal(err)
	}
	l.wait()
}

// wait wants the listener to end with status 0.
func (l *runningListener) wait() {
	l.Helper()
	if err := l.cmd.Wait(); err != nil {
		l.Errorf("the listener ended with %v\n%s", err, l.out.String())
	}
}

// waitForJobs waits until the listener has said of n jobs that they are completed.
func (l *runningListener) waitForJobs(n int) {
	l.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		l.mu.Lock()
		out := l.out.String()
		l.mu.Unlock()
		if strings.Count(out, " completed with result: ") >= n {
			return
		}
		if time.Now().After(end) {
			l.Fatalf("less than %d jobs were completed:\n%s", n, out)
		}
	}
}

var clock = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ: `)

// wantLines compares the console of a listener that has ended, without its empty
// lines.
func (l *runningListener) wantLines(want ...string) {
	l.Helper()
	var got []string
	for line := range strings.Lines(l.out.String()) {
		if line = strings.TrimSpace(line); line != "" {
			got = append(got, clock.ReplaceAllString(line, "TIME: "))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		l.Errorf("console (-want +got):\n%s", diff)
	}
}

func waitForFile(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Fatalf("%s does not appear", path)
}
