package supervise

import (
	"fmt"
	"regexp"
)

// Exit statuses of the service that tell systemd not to start it again
// (RestartPreventExitStatus= of runner.service): trying again cannot help.
const (
	StatusNotRegistered = 3 // GitHub has dropped the registration, or there is none
	StatusTooOld        = 4 // GitHub no longer serves this version of the runner
)

// StopError says why the service gives up. Its text says what to do.
type StopError struct {
	Status int
	Reason string
}

func (e *StopError) Error() string { return e.Reason }

// outcome is how one run of Runner.Listener ended.
type outcome struct {
	status     int  // exit status, or 128 + signal
	configured bool // its identity is still there
	said       symptoms
}

// symptoms are what the listener printed that its status does not tell.
type symptoms struct{ deleted, notConfigured, tooOld bool }

var (
	deletedPattern       = regexp.MustCompile(`registration has been deleted|invalid_client`)
	notConfiguredPattern = regexp.MustCompile(`^Not configured`)
	tooOldPattern        = regexp.MustCompile(`(?i)runner version .* is deprecated`)
)

func (s *symptoms) see(line string) {
	s.deleted = s.deleted || deletedPattern.MatchString(line)
	s.notConfigured = s.notConfigured || notConfiguredPattern.MatchString(line)
	s.tooOld = s.tooOld || tooOldPattern.MatchString(line)
}

const (
	registerAgain = "put a new token into RUNNER_REGISTRATION_TOKEN in /etc/runner/config.env, then rm /var/lib/runner/installed && systemctl restart runner-install.service"
	renewRunner   = "install an image or a runner component with a current actions runner, then systemctl restart runner.service"
)

// decide is the policy for an end that nobody asked for: a *StopError to give
// up, or nil and what happened to start the listener again. The codes are
// Constants.Runner.ReturnCode of actions/runner 2.336.0.
//
//	0    ended without being asked: stop if the identity is gone, else restart
//	1    terminated: stop if it was removed or is too old, else restart
//	2    retryable error: restart
//	3 4  wants to update itself, which --disableupdate rules out: restart
//	5    another session with this identity: restart, as the other one may be
//	     our own from before a power cut (actions/runner#1506)
//	6    new settings from GitHub: restart
//	7    too old: stop
//	>128 killed by a signal: restart
//	else (100 to 105 are job results, never asked for here): restart
func decide(o outcome) (restart string, stop *StopError) {
	switch {
	case o.status == 7 || o.said.tooOld:
		return "", &StopError{StatusTooOld, "GitHub no longer gives jobs to this version of the actions runner; " + renewRunner}
	case o.said.notConfigured || !o.configured && !o.said.deleted && o.status == 1:
		return "", &StopError{StatusNotRegistered, "this runner is not registered; " + registerAgain}
	case o.said.deleted || !o.configured:
		return "", &StopError{StatusNotRegistered, "GitHub has removed this runner (by hand, or after 14 days without contact); " + registerAgain}
	}
	if text, ok := restarts[o.status]; ok {
		return text, nil
	}
	if o.status > 128 {
		return fmt.Sprintf("the listener was killed by signal %d; if this goes on, look for lack of memory in the journal", o.status-128), nil
	}
	return fmt.Sprintf("the listener ended with the unknown status %d", o.status), nil
}

var restarts = map[int]string{
	0: "the listener ended without being asked",
	1: "GitHub refused the listener; if this goes on, look for access rules and IP allow lists at GitHub",
	2: "the listener met an error that may pass",
	3: "the listener wanted to update itself, which this appliance does not let it; bake the image again with a current runner",
	4: "the listener wanted to update itself, which this appliance does not let it; bake the image again with a current runner",
	5: "another session with this runner's identity is open; if this goes on, another machine uses a copy of this disk",
	6: "the listener got new settings from GitHub",
}
