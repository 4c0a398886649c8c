package broker

import (
	"context"
	"errors"
)

// build builds the image of a Dockerfile.
func (s *Server) build(context.Context, Build, progress) (image, error) {
	return image{}, errors.New("cannot build: not supported yet")
}
