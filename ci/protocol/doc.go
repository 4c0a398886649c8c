// Package protocol holds what GitHub's services, the actions runner's listener
// and its worker say to each other, as actions/runner 2.336.0 spells it: the
// bodies of calls, the job message, and the pipe from listener to worker.
// ci/fakegithub and ci/stubrunner share it, so that tests of the appliance go
// the way that the real ones go.
package protocol
