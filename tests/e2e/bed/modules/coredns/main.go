// Command coredns is CoreDNS with only the plugins that the bed's cluster needs.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// CoreDNS runs its plugins in the order of this list, not of the Corefile.
	dnsserver.Directives = []string{"ready", "health", "errors", "log", "cache", "hosts", "kubernetes", "template"}
	coremain.Run()
}
