// Command fakegithub serves ci/fakegithub, by hand or for a virtual machine:
// the guest of QEMU's user network reaches it as http://10.0.2.2/acme. The actions
// runner uses port 80 whatever its --url says.
package main

import (
	"flag"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/ci/fakegithub"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:80", "`address` to listen on")
	tokens := flag.String("tokens", "", "comma-separated registration `tokens` that are valid (default: any)")
	flag.Parse()
	var opt fakegithub.Options
	if *tokens != "" {
		opt.Tokens = strings.Split(*tokens, ",")
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("serving on http://%s", l.Addr())
	server := &http.Server{Handler: fakegithub.New(opt), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.Serve(l))
}
