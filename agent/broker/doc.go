// Package broker is the root process of container jobs: it owns the guests. Every
// host path, user id and limit comes from its own settings; a request of package
// brokerapi names what it wants, and the broker decides what that means.
//
//	Host ---Run---> Server             Host: command line and config.env (host.go)
//	                  | one client a   Server: requests, one after the other where
//	                  | goroutine      they start or end jobs (server.go, requests.go)
//	                  v
//	                 job               preparing -> running -> ended, under one lock (job.go);
//	                  |                what it does: prepare.go, step.go
//	                  |-- Network      made with the job, never exchanged
//	                  |-- volumes      a directory, made with the first of them
//	                  |-- worker       the guest of the job's worker and what goes with it
//	                  |     '-- endpoint    socket for the job's own hook (hooksocket.go)
//	                  |-- watcher      ends the job at its limits (watch.go)
//	                  '-- member...    one for each container (member.go)
//	                        |-- containerSpec   the workflow's words, parsed
//	                        |-- rootFS          OCI image or baked tree (rootfs.go)
//	                        '-- container       a Guest with user and environment (container.go)
//	                              '-- service   with a process of its own, and health (service.go)
//
// A job is prepared by a request and ended by another, by its limits, or by the
// broker's end. A job whose worker runs in a guest (worker.go) begins and ends with
// that worker instead: its containers come and go by requests of its own socket,
// which can name no other job. A container that runs alone, as for a Dockerfile's build, has a job
// of its own that no other request can name.
//
// Guests, networks and OCI images are used through the interfaces of parts.go, so
// that the life of a job is tested without root. Guests come from the sparePool,
// which keeps one of the guest base started (spare.go).
package broker
