package config

import (
	"net"
	"net/url"
	"slices"
	"strings"
)

// Servers returns GitHub and the proxies as HOST:PORT, without the ones that
// cannot be understood: they fail elsewhere, with a message.
func (c *Config) Servers() []string {
	var servers []string
	add := func(address string) {
		if s := server(address); s != "" && !slices.Contains(servers, s) {
			servers = append(servers, s)
		}
	}

	add(c.GitHubURL)
	for _, setting := range c.Proxy {
		key, value, _ := strings.Cut(setting, "=")
		if strings.EqualFold(key, "no_proxy") || value == "" {
			continue
		}
		if !strings.Contains(value, "://") {
			value = "http://" + value // as curl(1) and the actions runner read it
		}
		add(value)
	}
	return servers
}

// server returns HOST:PORT of a URL, or "" if it has no host or an unknown port.
func server(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[strings.ToLower(u.Scheme)]
	}
	if port == "" {
		return ""
	}
	return net.JoinHostPort(u.Hostname(), port)
}
