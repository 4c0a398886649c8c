// Package state lists what outlives a boot and an upgrade of the image, and
// resets an appliance to how it was flashed.
//
// Everything that outlives an upgrade is below /var. A reset takes two steps. The
// first, a running appliance's, writes a Request and reboots. The second, of the
// next boot and before anything uses /var, removes what Table does not keep, and
// the request last: a power cut at any time leads to the same end.
package state
