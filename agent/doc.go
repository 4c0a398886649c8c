// Package agent contains no code. This page shows the way of data through the
// packages beneath it, which are the whole run time of an appliance.
//
// A job, from the listener to the actions runner's worker and back:
//
//	listener                                                          user runner
//	   |  pipe: job message, cancel        ^ exit status, stdout, stderr
//	   v                                   |
//	relay           passes bytes on; jobmessage reads names and images as they pass
//	   |  brokerapi.WorkerRequest, then    | wire: Stdout, Stderr, Exit or Failure
//	   |  wire: Stdin, Job, Signal         |
//	===|===================================|======= peers checked ======= root ====
//	   v                                   |
//	broker, guest, guestinit: as for a step; what was Stdin is the worker's descriptor 3
//
// A step of a job, from the actions runner to a process and back:
//
//	actions runner                                                    user runner
//	   |  JSON on stdin                    ^ exit status, stdout, stderr
//	   v                                   |
//	hook            reads the runner's words, opens nothing
//	   |  brokerapi.ExecRequest            | wire: Stdout, Stderr, Exit or Failure{code}
//	   |  (frames of package wire, over a unix socket; one connection a call)
//	===|===================================|======= peers checked ======= root ====
//	   v                                   |
//	broker          finds the job, adds environment, user and capabilities
//	   |  guestapi.Process                 | the same frames; nothing else passes
//	   v                                   |
//	guest           opens the socket of one guest, follows no link
//	===|===================================|======= namespaces ====== root of a guest
//	   v                                   |
//	guestinit       the guest agent: starts the process, relays its streams
//
// Containers of a job, before its first step:
//
//	hook.Container         what the runner asks for, words of the workflow as they are
//	brokerapi.Container    the same, sent
//	---- trust line: from here on everything is checked by root ----
//	broker.member          options and ports parsed (dockeropts), volumes opened (workroot),
//	                       OCI image found or pulled (oci), address reserved (network)
//	guest.Spec             what a guest is started with: tree, devices, limits
//	guest.Bind             directories of the host, opened before they are shown
//	guestapi.Config        what the guest agent does inside: files, mounts, tmpfs
//
// The broker stands between two lines of trust and trusts neither side. It checks
// every request from above itself. From a guest it takes output, one byte of exit
// status and bounded text, and nothing that names a file or a process of the host.
//
// Beside a job's way stand config, which reads config.env; dist, which keeps newer
// copies of the actions runner; register and supervise, which make the appliance one
// runner and run its listener; control, by which people and the relay ask supervise;
// and imagebuild, which describes how the broker builds the image of a Dockerfile.
//
// No package here imports one of the build (image, rootfs, cmd). Fixed paths and all
// else that both know stand in internal/.
package agent
