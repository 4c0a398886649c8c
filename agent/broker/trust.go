package broker

import "github.com/mkappliance/mkappliance/agent/guestapi"

// withAuthorities adds to an environment, unless it has the variable, the one
// that lets node.js trust the authorities of RUNNER_CA_CERTS. Other programs find
// them in the store of the guest, where its agent adds them.
func (s Settings) withAuthorities(env map[string]string) map[string]string {
	const variable = "NODE_EXTRA_CA_CERTS"
	if _, set := env[variable]; !set && s.CACerts != "" {
		env[variable] = guestapi.CACertsFile
	}
	return env
}
