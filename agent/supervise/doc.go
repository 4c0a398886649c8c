// Package supervise keeps the actions runner's listener running. It starts
// bin/Runner.Listener itself: run.sh hides the exit statuses, and each of them
// has a meaning here (see decide).
//
// The service is in one of the states of package control, and transitions, in
// state.go, is the whole table of what leads from one to another:
//
//	              +------------------- ended ----------------------+
//	              v                                                |
//	         +----------+   listening   +--------+  job started  +------+
//	  ------>| starting |-------------->| online |-------------->| busy |
//	         +----------+               +--------+               +------+
//	           |      ^                   |    ^     job ended      |
//	  conflict |      | started           |    +--------------------+
//	           v      |                   |                         |
//	         +----------+                 |                         |
//	         | conflict |                 |                         |
//	         +----------+                 |                         |
//	              |                       |                         |
//	              +-----------+-----------+-------------------------+
//	                          | drain
//	                          v          ended          +---------+
//	                     +----------+ ----------------->| drained |
//	                     | draining |                   +---------+
//	                     +----------+                        | resumed
//	                          | resumed                      v
//	                          +--> starting, online, busy    starting
//
//	each state but the last three -- stop -----------> stopped
//	each of the listener's        -- too old --------> deprecated
//	                              -- not registered -> removed
//
// # Draining
//
// The listener knows no drain: SIGINT ends its polls for messages, but also
// cancels its job. So a drain waits for a moment without a job, and interrupts
// the listener then. A job may be between the two, offered or acquired but not
// started. From the message on, the listener's own log shows it, each line
// written at once: with such a line the drain waits, for 30 s at most, for the
// job to start or to be dropped (pendingMessage). A message that arrives just after that look is
// of no use to the listener: to acquire the job it makes two requests first, and
// asks for the third only if it was not interrupted (Runner.cs and
// BrokerMessageListener.cs of actions/runner 2.336.0).
//
// After a job that moment is when the worker has ended and the listener does not
// know: the relay in its place reports the end, and stays until the listener has
// noticed the interrupt. The listener then prints that the job was canceled, but
// the worker has reported the result to GitHub. Without the relay, where jobs run on the
// host, the moment is when the listener prints the end of the job: it asks for
// another, and acquires it, with four requests.
//
// Lines of output can be a workflow's, since the names of jobs stand in them.
// They are what makes the supervisor look; whether a job runs is a question of
// whether the listener has a child that is a worker (hasWorker), which no name can
// change.
package supervise
