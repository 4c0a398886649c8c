package network

import (
	_ "embed"
	"fmt"
	"strings"
	"text/template"
)

//go:embed rules.nft
var rulesText string

// ruleset returns the packet filter, as text for nft(8) that replaces an earlier
// one. The caller holds m.servers.mu.
func (m *Manager) ruleset() string {
	var bridges, within, sources, resolvers, allowed, special []string
	for i := range maxNetworks {
		bridge := fmt.Sprintf("%q", m.bridge(i))
		bridges = append(bridges, bridge)
		within = append(within, bridge+" . "+bridge)
		sources = append(sources, bridge+" . "+m.subnet(i).String())
	}
	for _, a := range m.Resolvers {
		resolvers = append(resolvers, a.String())
	}
	for _, p := range m.Allow {
		allowed = append(allowed, p.Masked().String())
	}
	for _, p := range specialRanges() {
		special = append(special, p.String())
	}

	var b strings.Builder
	rules := template.Must(template.New("rules.nft").Parse(rulesText))
	err := rules.Execute(&b, map[string]any{
		"Table":     m.table(),
		"Subnet":    m.Subnet.Masked().String(),
		"Bridges":   elements(bridges),
		"Within":    elements(within),
		"Sources":   elements(sources),
		"Resolvers": elements(resolvers),
		"Allowed":   elements(allowed),
		"Servers":   elements(m.serverElements()),
		"Special":   elements(special),
		"Networks":  maxNetworks,
		"Tracked":   maxTracked,
		"Pace":      maxPace,
		"Burst":     maxBurst,
	})
	if err != nil {
		panic(err) // the template and its fields are constant
	}
	return b.String()
}

// noRuleset returns text for nft(8) that removes the packet filter, if there is
// one.
func (m *Manager) noRuleset() string {
	return fmt.Sprintf("add table inet %[1]s\ndelete table inet %[1]s\n", m.table())
}

func (m *Manager) table() string { return m.Prefix + "-guests" }

// elements returns the elements of a set for nft(8), which has no empty list.
func elements(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return "elements = { " + strings.Join(all, ", ") + " }"
}
