package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mkappliance/mkappliance/ci/protocol"
	"github.com/mkappliance/mkappliance/ci/stubrunner/internal/api"
	"github.com/mkappliance/mkappliance/ci/stubrunner/internal/files"
)

const (
	conflictRetry  = 30 * time.Second // session conflict: how often,
	conflictGiveUp = 4 * time.Minute  // and how long, MessageListener.cs
	maxPollErrors  = 10
)

// listener is one session with the broker.
type listener struct {
	api.Client
	root     files.Root
	settings files.Settings
	log      io.Writer // as _diag/Runner_*.log of the real listener
	session  string
	jobs     sync.WaitGroup

	mu      sync.Mutex
	status  string             // Online, or Busy while a job runs
	cutPoll context.CancelFunc // ends the poll under way
	job     *runningJob        // nil without one
}

// listen serves jobs until a signal or an error ends it, and returns the exit
// code.
func listen(ctx context.Context, r files.Root, log io.Writer) int {
	s, err := r.Settings()
	if err != nil {
		fmt.Fprintln(os.Stderr, "Not configured. Run config.(sh/cmd) to configure the runner.")
		return exitTerminated
	}
	l := &listener{root: r, settings: s, log: log, status: "Online", cutPoll: func() {}}
	if code := l.connect(ctx); code != exitSuccess || ctx.Err() != nil {
		return code
	}
	defer l.closeSession()

	say("Listening for Jobs")
	code := l.poll(ctx)
	l.jobs.Wait()
	return code
}

func say(message string) {
	fmt.Printf("%s: %s\n", time.Now().UTC().Format("2006-01-02 15:04:05Z"), message)
}

// connect gets a token and opens a session, for the first time or again.
func (l *listener) connect(ctx context.Context) int {
	if err := l.authorize(ctx); err != nil {
		return l.failed(ctx, err)
	}
	fmt.Println("\n√ Connected to GitHub")
	if l.session == "" {
		fmt.Println("\nCurrent runner version: '" + version + "'")
	}
	return l.openSession(ctx)
}

// failed returns the exit code that the real listener ends with on an error.
func (l *listener) failed(ctx context.Context, err error) int {
	if ctx.Err() != nil {
		fmt.Println("Exiting...")
		return exitSuccess
	}
	var se *api.StatusError
	if !errors.As(err, &se) {
		fmt.Fprintln(os.Stderr, "An error occurred:", err)
		return exitRetryable
	}

	switch {
	case se.Code == "invalid_client":
		fmt.Fprintln(os.Stderr, "Failed to create a session. "+
			"The runner registration has been deleted from the server, please re-configure. Runner registrations are "+
			"automatically deleted for runners that have not connected to the service recently.")
		fmt.Fprintln(os.Stderr, "An error occurred:", se.Description)
		return exitTerminated
	case se.Kind == protocol.RunnerVersionTooOld:
		fmt.Fprintln(os.Stderr, "An error occurred:", se.Message)
		if os.Getenv("ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE") == "1" {
			return exitTooOld
		}
		return exitTerminated
	case se.Kind == protocol.RunnerNotFound:
		return l.removeRegistration()
	}
	fmt.Fprintln(os.Stderr, "An error occurred:", err)
	return exitRetryable
}

// removeRegistration removes the files of a runner that GitHub does not know.
func (l *listener) removeRegistration() int {
	fmt.Println("The runner no longer exists on the server. Cleaning up local configuration.")
	for _, name := range []string{".credentials", ".runner"} {
		if err := os.Remove(l.root.Path(name)); err == nil {
			fmt.Println("√ Removed " + name)
		}
	}
	return exitSuccess
}

func (l *listener) authorize(ctx context.Context) error {
	var cred files.Credentials
	if err := files.LoadJSON(l.root.Path(".credentials"), &cred); err != nil {
		return err
	}
	key, err := loadKey(l.root)
	if err != nil {
		return err
	}
	assertion, err := signJWT(key, cred.Data.ClientID, cred.Data.AuthorizationURL)
	if err != nil {
		return err
	}

	form := url.Values{"grant_type": {"client_credentials"}, "client_assertion": {assertion},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
	var out struct {
		AccessToken string `json:"access_token"`
	}
	userAgent := api.UserAgent(version, "Runner", "ClientId/"+cred.Data.ClientID,
		fmt.Sprintf("RunnerId/%d", l.settings.AgentID), fmt.Sprintf("GroupId/%d", l.settings.PoolID))
	anonymous := api.Client{UserAgent: userAgent}
	if err := anonymous.Call(ctx, http.MethodPost, cred.Data.AuthorizationURL, form, &out); err != nil {
		return err
	}
	l.Client = api.Client{Authorization: "Bearer " + out.AccessToken, UserAgent: userAgent}
	return nil
}

// address returns the URL of a call to the tenant.
func (l *listener) address(call string) string {
	return strings.TrimRight(l.settings.ServerURLV2, "/") + "/" + call
}

func (l *listener) openSession(ctx context.Context) int {
	host, err := os.Hostname()
	if err != nil {
		return l.failed(ctx, err)
	}
	body := map[string]any{
		"sessionId": "00000000-0000-0000-0000-000000000000", "ownerName": fmt.Sprintf("%s (PID: %d)", host, os.Getpid()),
		"agent": map[string]any{"id": l.settings.AgentID, "name": l.settings.AgentName, "version": version,
			"osDescription": "Linux", "ephemeral": nil, "status": 0, "provisioningState": nil},
		"useFipsEncryption": false,
	}
	for started := time.Now(); ; {
		var out struct{ SessionID string }
		err := l.Call(ctx, http.MethodPost, l.address("session"), body, &out)
		if err == nil {
			l.session = out.SessionID
			return exitSuccess
		}
		var se *api.StatusError
		if !errors.As(err, &se) || se.Status != http.StatusConflict {
			return l.failed(ctx, err)
		}

		fmt.Println("A session for this runner already exists.")
		if time.Since(started) >= conflictGiveUp {
			fmt.Fprintln(os.Stderr, "Stop retry on SessionConflictException after retried for 240 seconds.")
			return exitSessionConflict
		}
		select {
		case <-ctx.Done():
			return exitSuccess
		case <-time.After(conflictRetry):
		}
	}
}

func (l *listener) closeSession() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = l.Call(ctx, http.MethodDelete, l.address("session"), nil, nil) // the server forgets it by itself
}

// trace writes a line of the log, which somebody reads while the listener runs.
func (l *listener) trace(source, message string) {
	fmt.Fprintf(l.log, "[%s INFO %s] %s\n", time.Now().UTC().Format("2006-01-02 15:04:05Z"), source, message)
}

// setStatus changes what polls say of the runner, and cuts the one under way.
func (l *listener) setStatus(status string) {
	l.trace("BrokerMessageListener", "Received job status event. JobState: "+status)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status = status
	l.cutPoll()
}

// nextMessage polls once. cut reports that the runner's state changed meanwhile.
func (l *listener) nextMessage(ctx context.Context) (m protocol.BrokerMessage, cut bool, err error) {
	pollCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.mu.Lock()
	l.cutPoll = cancel
	address := l.address(fmt.Sprintf("message?sessionId=%s&status=%s&runnerVersion=%s&os=Linux&architecture=%s"+
		"&disableUpdate=%t", l.session, l.status, version, runnerArch(), l.settings.DisableUpdate))
	l.mu.Unlock()

	err = l.Call(pollCtx, http.MethodGet, address, nil, &m)
	return m, err != nil && pollCtx.Err() != nil, err
}

func (l *listener) poll(ctx context.Context) int {
	failures := 0
	for ctx.Err() == nil {
		m, cut, err := l.nextMessage(ctx)
		switch {
		case cut:
		case err != nil:
			if failures++; failures >= maxPollErrors {
				return l.failed(ctx, err)
			}
			if code, end := l.recover(ctx, err); end {
				return code
			}
		case m.MessageType == protocol.DoubleExit:
			var status int
			_ = json.Unmarshal([]byte(m.Body), &status) // ci/fakegithub has written it
			return status
		default:
			failures = 0
			if m.MessageID != 0 { // none came
				l.trace("BrokerMessageListener", fmt.Sprintf("Message '%d' received.", m.MessageID))
			}
			l.handle(ctx, m)
		}
	}

	fmt.Println("Exiting...")
	return exitSuccess
}

// recover follows up a poll that failed. end reports that the listener ends, with
// this code.
func (l *listener) recover(ctx context.Context, err error) (code int, end bool) {
	var se *api.StatusError
	refused := errors.As(err, &se)
	switch {
	case refused && (se.Kind == protocol.RunnerVersionTooOld || se.Kind == protocol.RunnerNotFound):
		return l.failed(ctx, err), true
	case refused && (se.Status == http.StatusNotFound || se.Kind == protocol.RunnerSessionInvalid):
		code := l.connect(ctx)
		return code, code != exitSuccess
	case refused:
		// A server that answers with a refusal is not asked again for a token; one
		// that cannot be reached is.
		if err := l.authorize(ctx); errors.As(err, &se) {
			return l.failed(ctx, err), true
		}
	}

	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
	return exitSuccess, false
}

// handle acts on a message. Those of unknown types are ignored.
func (l *listener) handle(ctx context.Context, m protocol.BrokerMessage) {
	switch m.MessageType {
	case protocol.RunnerJobRequest:
		var request protocol.JobRequest
		if err := json.Unmarshal([]byte(m.Body), &request); err != nil {
			fmt.Fprintln(os.Stderr, "An error occurred:", err)
			return
		}
		if err := l.acquire(ctx, request); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "An error occurred:", err)
			l.trace("Runner", "Skipping message Job. "+err.Error())
		}
	case protocol.JobCancellation:
		var cancellation protocol.Cancellation
		if err := json.Unmarshal([]byte(m.Body), &cancellation); err != nil {
			fmt.Fprintln(os.Stderr, "An error occurred:", err)
			return
		}
		l.cancelJob(cancellation)
	}
}
