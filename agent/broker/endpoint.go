package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/agent/wire"
)

// endpoint is what clients of one socket find: who is let in, and who answers.
type endpoint struct {
	maxRequest int // bytes
	check      func(conn net.Conn) error
	// answer carries out one request. Calling cancel ends ctx, and so all that the
	// request has started.
	answer func(ctx context.Context, cancel context.CancelFunc, client *wire.Conn, e brokerapi.Envelope) error
	log    *slog.Logger
}

// handle serves one client. Its context ends when the client hangs up.
func (p endpoint) handle(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()

	if err := p.check(conn); err != nil {
		p.log.Warn("client refused", "error", err)
		return
	}

	client := wire.NewConn(conn, p.maxRequest)
	kind, payload, err := client.Receive()
	if err != nil || kind != wire.Request {
		return
	}
	var request brokerapi.Envelope
	if err := json.Unmarshal(payload, &request); err != nil {
		_ = client.SendFailure(fmt.Errorf("cannot read request: %w", err))
		return
	}

	if err := p.answer(ctx, cancel, client, request); err != nil && ctx.Err() == nil {
		p.log.Error("request failed", "error", err)
		_ = client.SendFailure(err)
	}
}
