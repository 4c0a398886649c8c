// Package dockercli is the docker command in the guest of a job's worker. The
// actions runner calls it for the containers of a workflow, in the 16 forms that
// DockerCommandManager.cs of actions/runner 2.336.0 has, and steps call it for
// the same containers; the broker answers, and no Docker takes part.
//
// The words of "docker create" and "docker run" go to the broker as they are: it
// parses them on its side of the socket. All else is parsed here, and what is
// printed is formatted here, by templates too: these are the caller's own.
//
// A call that is not about the job's containers belongs to the Docker of the
// guest, if there is one: Run returns ErrElsewhere for it.
package dockercli
