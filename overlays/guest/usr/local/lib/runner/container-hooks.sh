#!/bin/bash
# ACTIONS_RUNNER_CONTAINER_HOOKS names this script, because the actions runner
# refuses a program without a file name extension. It signals only the process it
# started, hence exec. The socket is that of this job alone.
exec /run/runner/runner-shim hook /run/runner/job/guest.sock
