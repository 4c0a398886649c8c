package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestServers(t *testing.T) {
	for _, test := range []struct {
		summary, github string
		proxy           []string
		want            []string
	}{
		{summary: "nothing is set"},
		{summary: "GitHub", github: "https://github.com/acme", want: []string{"github.com:443"}},
		{summary: "a server by HTTP", github: "http://10.1.2.3/acme", want: []string{"10.1.2.3:80"}},
		{summary: "a server with a port", github: "https://ghe.lan:8443/acme", want: []string{"ghe.lan:8443"}},
		{
			summary: "proxies, in either case, no list of exceptions",
			proxy: []string{
				"http_proxy=http://user:secret@proxy.lan:3128/", "HTTPS_PROXY=https://secure.lan", "no_proxy=10.0.0.1:80",
			},
			want: []string{"proxy.lan:3128", "secure.lan:443"},
		},
		{summary: "a proxy without a scheme", proxy: []string{"https_proxy=10.9.8.7:8080"}, want: []string{"10.9.8.7:8080"}},
		{
			summary: "one proxy twice",
			proxy:   []string{"http_proxy=http://proxy.lan", "https_proxy=http://proxy.lan:80"},
			want:    []string{"proxy.lan:80"},
		},
		{
			summary: "nothing that can be reached",
			proxy: []string{
				"http_proxy=", "https_proxy=http://:3128", "HTTP_PROXY=socks5://proxy.lan", "HTTPS_PROXY=http://a b",
			},
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			c := &Config{GitHubURL: test.github, Proxy: test.proxy}
			if diff := cmp.Diff(test.want, c.Servers()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
