// Package dist keeps copies of the actions runner that are newer than the one in the
// image, and chooses which of them runs. GitHub stops to serve a version 30 days
// after the next one was published, so an image alone does not last.
//
// A Store is the directory of copies. Its state is what every start of runner.service
// goes by (Select):
//
//	trial    a version that has not been online yet; at most maxStarts starts
//	current  the version that came online last; the image's if there is none
//
// A Renewer finds a newer release, adds its copy, makes it the trial, restarts the
// service between two jobs and waits until the runner is online. Then the trial is
// current. If the time is over before that, the version has failed: the service is
// restarted with the copy before, and the version is not tried again by itself. If
// the copy before does not come online either, it was not the version's fault, and a
// later run tries it again.
//
// A copy is accepted if its archive has the SHA-256 that GitHub's API states for it, or
// a signature of an update key of the image. It is unpacked under a temporary name,
// flushed to the disk and renamed: a power cut leaves all of it or none.
//
// The state is JSON whose unknown fields are ignored, so that the version of the image
// before can read it after a rollback.
package dist
