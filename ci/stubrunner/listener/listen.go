package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mkappliance/mkappliance/ci/fakegithub"
	"github.com/mkappliance/mkappliance/ci/miniworker"
)

const (
	conflictRetry  = 30 * time.Second // session conflict: how often,
	conflictGiveUp = 4 * time.Minute  // and how long, MessageListener.cs
	maxPollErrors  = 10
)

// listener is one session with the broker.
type listener struct {
	client
	root     root
	settings settings
}

// listen serves jobs until a signal or an error ends it, and returns the exit
// code.
func listen(ctx context.Context, r root) int {
	s, err := loadSettings(r)
	if err != nil {
		fmt.Fprintln(os.Stderr, "Not configured. Run config.(sh/cmd) to configure the runner.")
		return exitTerminated
	}
	l := &listener{root: r, settings: s}
	if err := l.authorize(ctx); err != nil {
		return l.failed(ctx, err)
	}

	fmt.Println("\n√ Connected to GitHub\n\nCurrent runner version: '" + version + "'")
	if code := l.openSession(ctx); code != exitSuccess || ctx.Err() != nil {
		return code
	}
	defer l.closeSession()

	say("Listening for Jobs")
	return l.poll(ctx)
}

func say(message string) {
	fmt.Printf("%s: %s\n", time.Now().UTC().Format("2006-01-02 15:04:05Z"), message)
}

// failed returns the exit code that the real listener ends with on an error.
func (l *listener) failed(ctx context.Context, err error) int {
	if ctx.Err() != nil {
		fmt.Println("Exiting...")
		return exitSuccess
	}
	var se *statusError
	if errors.As(err, &se) && se.errorCode == "invalid_client" {
		fmt.Fprintln(os.Stderr, "Failed to create a session. "+
			"The runner registration has been deleted from the server, please re-configure. Runner registrations are "+
			"automatically deleted for runners that have not connected to the service recently.")
		return exitTerminated
	}
	fmt.Fprintln(os.Stderr, "An error occurred:", err)
	return exitRetryable
}

func (l *listener) authorize(ctx context.Context) error {
	var cred credentials
	if err := loadJSON(l.root.path(".credentials"), &cred); err != nil {
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
	l.authorization = ""
	if err := l.call(ctx, http.MethodPost, cred.Data.AuthorizationURL, form, &out); err != nil {
		return err
	}
	l.authorization = "Bearer " + out.AccessToken
	return nil
}

func (l *listener) openSession(ctx context.Context) int {
	agent := map[string]any{"id": l.settings.AgentID, "name": l.settings.AgentName, "version": version}
	body := map[string]any{"ownerName": l.settings.AgentName, "agent": agent}
	for started := time.Now(); ; {
		err := l.call(ctx, http.MethodPost, l.settings.ServerURLV2+"session", body, nil)
		if err == nil {
			return exitSuccess
		}
		var se *statusError
		if !errors.As(err, &se) || se.status != http.StatusConflict {
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
	_ = l.call(ctx, http.MethodDelete, l.settings.ServerURLV2+"session", nil, nil) // the server forgets it by itself
}

func (l *listener) poll(ctx context.Context) int {
	address := fmt.Sprintf("%smessage?status=Online&runnerVersion=%s&disableUpdate=%t",
		l.settings.ServerURLV2, version, l.settings.DisableUpdate)

	failures := 0
	for ctx.Err() == nil {
		var m fakegithub.Message
		err := l.call(ctx, http.MethodGet, address, nil, &m)
		switch {
		case err != nil && ctx.Err() == nil:
			if failures++; failures >= maxPollErrors {
				return l.failed(ctx, err)
			}
			// A server that answers with a refusal is not asked again; one that
			// cannot be reached is.
			var refused *statusError
			if err := l.authorize(ctx); errors.As(err, &refused) {
				return l.failed(ctx, err)
			}
			time.Sleep(time.Second)
		case m.Exit != nil:
			return *m.Exit
		case m.Job != nil:
			l.runJob(ctx, m.JobID, *m.Job)
		default:
			failures = 0
		}
	}
	fmt.Println("Exiting...")
	return exitSuccess
}

func (l *listener) runJob(ctx context.Context, id string, job miniworker.Job) {
	say("Running job: " + job.Name)
	jobCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx)) // ends with a cause of our own
	defer cancel(nil)
	stopShutdown := context.AfterFunc(ctx, func() { cancel(miniworker.ErrShutdown) })
	defer stopShutdown()

	report := l.report(id)
	stopRenew := l.renew(jobCtx, id, cancel)
	result := l.work(jobCtx, job, report.add)
	stopRenew()
	report.flush()

	end, done := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer done()
	if err := l.call(end, http.MethodPost, l.jobURL(id, "complete"), result, nil); err != nil {
		fmt.Fprintln(os.Stderr, "An error occurred:", err)
	}
	results := map[string]string{
		miniworker.Success: "Succeeded", miniworker.Failure: "Failed", miniworker.Cancelled: "Canceled",
	}
	say(fmt.Sprintf("Job %s completed with result: %s", job.Name, results[result.Conclusion]))
}

func (l *listener) work(ctx context.Context, job miniworker.Job, line func(string)) miniworker.JobResult {
	work := l.settings.WorkFolder
	if !filepath.IsAbs(work) {
		work = l.root.path(work)
	}
	w, err := miniworker.New(miniworker.Options{
		Hook: os.Getenv("ACTIONS_RUNNER_CONTAINER_HOOKS"), Root: string(l.root), Work: work,
		Repository: job.Repository, RunnerName: l.settings.AgentName, Line: line,
	})
	if err != nil {
		return miniworker.JobResult{Conclusion: miniworker.Failure, Steps: []miniworker.StepResult{
			{Name: "Set up job", Conclusion: miniworker.Failure, Errors: []string{err.Error()}}}}
	}
	return w.RunJob(ctx, job)
}

func (l *listener) jobURL(id, what string) string {
	return strings.Replace(l.settings.ServerURLV2, "/_broker/", "/_run/"+id+"/"+what, 1)
}

// renew asks every second whether the job was cancelled.
func (l *listener) renew(ctx context.Context, id string, cancel context.CancelCauseFunc) (stop func()) {
	ctx, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			var out struct{ Cancel bool }
			if err := l.call(ctx, http.MethodPost, l.jobURL(id, "renew"), nil, &out); err == nil && out.Cancel {
				cancel(miniworker.ErrCancelled)
				return
			}
		}
	})
	return func() { end(); wg.Wait() }
}

// reporter sends log lines in small batches.
type reporter struct {
	lines chan string
	done  chan struct{}
}

func (l *listener) report(id string) *reporter {
	r := &reporter{lines: make(chan string, 1000), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for line := range r.lines {
			l.sendLog(id, r.batch(line))
		}
	}()
	return r
}

// maxBatch is how many lines are sent at a time.
const maxBatch = 500

// batch returns first and the lines that wait behind it.
func (r *reporter) batch(first string) []string {
	lines := []string{first}
	for len(lines) < maxBatch {
		select {
		case next, ok := <-r.lines:
			if !ok {
				return lines
			}
			lines = append(lines, next)
		default:
			return lines
		}
	}
	return lines
}

// sendLog outlives the job's context: the log of a cancelled job is wanted too.
func (l *listener) sendLog(id string, lines []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := l.call(ctx, http.MethodPost, l.jobURL(id, "log"), map[string][]string{"lines": lines}, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "An error occurred:", err)
	}
}

func (r *reporter) add(line string) { r.lines <- line }
func (r *reporter) flush()          { close(r.lines); <-r.done }

func loadKey(r root) (*rsa.PrivateKey, error) {
	var p rsaParams
	if err := loadJSON(r.path(".credentials_rsaparams"), &p); err != nil {
		return nil, err
	}
	number := func(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: number(p.Modulus), E: int(number(p.Exponent).Int64())},
		D: number(p.D), Primes: []*big.Int{number(p.P), number(p.Q)}}
	key.Precompute()
	return key, key.Validate()
}

func signJWT(key *rsa.PrivateKey, clientID, audience string) (string, error) {
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{"sub": clientID, "iss": clientID, "aud": audience, "nbf": now,
		"exp": now + 300, "jti": fmt.Sprint(time.Now().UnixNano())})
	if err != nil {
		return "", err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + b64(claims)
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	return signed + "." + b64(sig), err
}
