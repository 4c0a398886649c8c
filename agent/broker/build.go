package broker

import (
	"context"
	"errors"

	"mkappliance/agent/api"
)

// build builds the image of a Dockerfile.
func (s *Server) build(context.Context, api.Build, progress) (image, error) {
	return image{}, errors.New("cannot build: not supported yet")
}
