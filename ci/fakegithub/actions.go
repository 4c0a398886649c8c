package fakegithub

import (
	"archive/tar"
	"compress/gzip"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/mkappliance/mkappliance/ci/protocol"
)

func (s *Server) actionRoutes() {
	s.mux.HandleFunc("POST "+launchPath+"/actions/build/{plan}/jobs/{job}/runnerresolve/actions", s.resolveActions)
	s.mux.HandleFunc("GET /_codeload/{archive}", s.sendAction)
}

// resolveActions says where the actions of a job are fetched. They are the
// directories that the job's Actions name.
func (s *Server) resolveActions(w http.ResponseWriter, r *http.Request) {
	var in protocol.ResolveRequest
	if !readJSON(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.running(w, r)
	if j == nil {
		return
	}

	out := protocol.ResolveAnswer{Actions: map[string]protocol.ResolvedAction{}}
	for _, a := range in.Actions {
		dir, ok := j.Job.Actions[a.Action+"/"+a.Version]
		key := a.Action + "@" + a.Version
		if !ok {
			writeJSON(w, http.StatusUnprocessableEntity, map[string]any{"errors": map[string]any{
				key: map[string]string{"message": "Unable to resolve action " + key + ", repository not found"}}})
			return
		}
		id := randomID()
		j.archives[id] = dir
		out.Actions[key] = protocol.ResolvedAction{Name: a.Action, ResolvedName: a.Action,
			ResolvedSHA: strings.Repeat("0", 40), Version: a.Version, TarURL: origin(r) + "/_codeload/" + id}
	}
	writeJSON(w, http.StatusOK, out)
}

// sendAction sends the tar file of an action to who has the job's GITHUB_TOKEN.
func (s *Server) sendAction(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	dir := ""
	s.mu.Lock()
	for _, j := range s.jobs {
		if user == "x-access-token" && j.gitHubToken == password {
			dir = j.archives[r.PathValue("archive")]
		}
	}
	s.mu.Unlock()
	if dir == "" {
		writeError(w, http.StatusNotFound, "Not Found")
		return
	}
	w.Header().Set("Content-Type", "application/x-gzip")
	gz := gzip.NewWriter(w)
	// An archive that ends early is the worker's to notice.
	_ = writeTar(gz, dir)
	_ = gz.Close()
}

// writeTar writes the files beneath dir, all in one top directory.
func writeTar(to io.Writer, dir string) error {
	tw := tar.NewWriter(to)
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(name); err != nil {
				return err
			}
		}

		header, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		header.Name = path.Join("action", relative)
		if err := tw.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		_, err = tw.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	return tw.Close()
}
