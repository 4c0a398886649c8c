package supervise

import (
	"fmt"
	"regexp"

	"github.com/mkappliance/mkappliance/internal/layout"
)

// Exit statuses of the service after which systemd does not start it again
// (RestartPreventExitStatus= of runner.service): another try cannot help.
const (
	StatusNotRegistered = 3 // GitHub has removed the registration, or there is none
	StatusTooOld        = 4 // GitHub no longer serves this version of the runner
)

// StopError is why the service stops for good.
type StopError struct {
	Status int    // exit status of the service
	Reason string // cause and fix, one line
}

func (e *StopError) Error() string { return e.Reason }

func (e *StopError) event() event {
	if e.Status == StatusTooOld {
		return tooOld
	}
	return notRegistered
}

// statusConflict is the listener's exit status when another session stayed open
// for four minutes.
const statusConflict = 5

// outcome is how one run of the listener ended.
type outcome struct {
	status     int      // exit status, or 128 + signal
	registered bool     // .runner is still there
	drained    bool     // it was interrupted for a drain
	output     symptoms // what its output shows
}

// symptoms are the facts that the listener prints and that its exit status
// does not show.
type symptoms struct{ deleted, notConfigured, tooOld bool }

// The lines of actions/runner 2.336.0 that show a symptom, from their beginning.
var (
	deletedPattern = regexp.MustCompile(`^Failed to create a session\. The runner registration has been deleted` +
		`|^An error occurred: .*invalid_client`)
	notConfiguredPattern = regexp.MustCompile(`^Not configured`)
	tooOldPattern        = regexp.MustCompile(`(?i)^An error occurred: Runner version .* is deprecated`)
)

// add adds the symptoms of a line of output.
func (s *symptoms) add(line string) {
	s.deleted = s.deleted || deletedPattern.MatchString(line)
	s.notConfigured = s.notConfigured || notConfiguredPattern.MatchString(line)
	s.tooOld = s.tooOld || tooOldPattern.MatchString(line)
}

const (
	registerAgain = "put a new token into RUNNER_REGISTRATION_TOKEN in " + layout.ConfigFile + ", " +
		"then rm " + layout.Registered + " && systemctl restart runner-install.service"
	renewRunner = "runner-agent renew installs a newer one"
)

// decide is the policy for an end that nobody asked for. It returns a
// *StopError to give up, or nil and the reason to start the listener again.
//
// The first row that applies counts. Exit statuses are those of
// Constants.Runner.ReturnCode of actions/runner 2.336.0.
//
//	status  other sign              then
//	7                               stop: too old
//	any     output: too old         stop: too old
//	any     output: not configured  stop: not registered
//	any     output: deleted         stop: removed by GitHub
//	1       .runner is gone         stop: not registered
//	any     .runner is gone         stop: removed by GitHub
//	0 to 6                          restart, see restartReasons
//	> 128   killed by a signal      restart
//	other                           restart; 100 to 105 are results of a job,
//	                                in a mode that is not used here
func decide(o outcome) (restart string, stop *StopError) {
	neverRegistered := !o.registered && !o.output.deleted && o.status == 1
	switch {
	case o.status == 7 || o.output.tooOld:
		return "", &StopError{StatusTooOld,
			"GitHub no longer sends jobs to this version of the actions runner; " + renewRunner}
	case o.output.notConfigured || neverRegistered:
		return "", &StopError{StatusNotRegistered, "this runner is not registered; " + registerAgain}
	case o.output.deleted || !o.registered:
		return "", &StopError{StatusNotRegistered,
			"GitHub has removed this runner (by hand, or after 14 days without contact); " + registerAgain}
	}

	if reason, ok := restartReasons[o.status]; ok {
		return reason, nil
	}
	if o.status > 128 {
		return fmt.Sprintf("the listener was killed by signal %d; "+
			"if this goes on, look for lack of memory in the journal", o.status-128), nil
	}
	return fmt.Sprintf("the listener ended with the unknown status %d", o.status), nil
}

// restartReasons are the exit statuses after which the listener is started
// again.
var restartReasons = map[int]string{
	0: "the listener ended without being asked",
	1: "GitHub refused the listener; if this goes on, look for access rules and IP allow lists at GitHub",
	2: "the listener met an error that may pass",
	3: updateReason,
	4: updateReason,
	// The other session may be our own from before a power cut,
	// https://github.com/actions/runner/issues/1506.
	statusConflict: "another session with this runner's registration is open; " +
		"if this goes on, another machine uses a copy of this disk",
	6: "the listener got new settings from GitHub",
}

// updateReason is for an update of the actions runner by itself, which
// --disableupdate rules out.
const updateReason = "the listener wanted to update itself, which this appliance does not let it; " +
	"runner-agent renew installs a newer one"
