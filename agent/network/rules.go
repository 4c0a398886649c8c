package network

import (
	_ "embed"
	"fmt"
	"net/netip"
	"strings"
	"text/template"
)

//go:embed rules.nft
var rulesText string

var rules = template.Must(template.New("rules.nft").Parse(rulesText))

// ruleset is the packet filter, as text for nft(8) that replaces an earlier one.
func (h *Manager) ruleset() string {
	var bridges, within, sources, resolvers, allowed []string
	for slot := range maxNetworks {
		bridge := fmt.Sprintf("%q", h.bridge(slot))
		bridges = append(bridges, bridge)
		within = append(within, bridge+" . "+bridge)
		sources = append(sources, bridge+" . "+h.subnet(slot).String())
	}
	for _, a := range h.Resolvers {
		resolvers = append(resolvers, a.String())
	}
	for _, p := range h.Allow {
		allowed = append(allowed, p.Masked().String())
	}
	var b strings.Builder
	err := rules.Execute(&b, struct {
		Table                                        string
		Subnet                                       netip.Prefix
		Bridges, Within, Sources, Resolvers, Allowed string
	}{h.table(), h.Subnet.Masked(), elements(bridges), elements(within), elements(sources), elements(resolvers), elements(allowed)})
	if err != nil {
		panic(err) // the template and its fields are constant
	}
	return b.String()
}

// noRuleset removes the packet filter, which need not be there.
func (h *Manager) noRuleset() string {
	return fmt.Sprintf("add table inet %[1]s\ndelete table inet %[1]s\n", h.table())
}

func (h *Manager) table() string { return h.Prefix + "-guests" }

// elements are those of a set, nothing if there are none: nft(8) has no empty
// list.
func elements(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return "elements = { " + strings.Join(all, ", ") + " }"
}
