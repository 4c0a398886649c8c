#!/bin/bash
# What ACTIONS_RUNNER_CONTAINER_HOOKS names: the runner takes no program without
# an extension. It signals this one process only, hence exec.
exec /usr/local/bin/runner-shim hook
