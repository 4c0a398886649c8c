// Package broker is the root process of container jobs: it owns the guests. Every host path, user id and limit comes
// from its own settings; a request of package brokerapi names only ids and values inside of a guest.
package broker
