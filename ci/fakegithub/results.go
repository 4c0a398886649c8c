package fakegithub

import (
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/ci/protocol"
)

// blob is a place where one log or one summary is put.
type blob struct {
	job     *job
	step    string // its id, or "" for the job
	summary bool
}

func (s *Server) resultsRoutes() {
	s.mux.HandleFunc("POST "+resultsPath+protocol.StepsUpdatePath, s.updateSteps)
	for _, kind := range []string{"StepLogs", "JobLogs", "StepSummary"} {
		receiver := "POST " + resultsPath + protocol.ReceiverPath
		s.mux.HandleFunc(receiver+"Get"+kind+"SignedBlobURL", func(w http.ResponseWriter, r *http.Request) {
			s.placeBlob(w, r, kind)
		})
		s.mux.HandleFunc(receiver+"Create"+kind+"Metadata", s.createMetadata)
	}
	s.mux.HandleFunc("PUT /_blobs/{blob}", s.putBlob)
}

func (s *Server) updateSteps(w http.ResponseWriter, r *http.Request) {
	var in protocol.StepsUpdate
	if !readJSON(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running(w, r) != nil {
		writeJSON(w, http.StatusOK, map[string]bool{"ok": true})
	}
}

// placeBlob says where to put a log or a summary.
func (s *Server) placeBlob(w http.ResponseWriter, r *http.Request, kind string) {
	var in protocol.BlobRequest
	if !readJSON(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.running(w, r)
	if j == nil {
		return
	}
	if (in.StepID == "") != (kind == "JobLogs") || in.JobID != j.guid || in.PlanID != j.plan {
		writeError(w, http.StatusBadRequest, "wrong ids")
		return
	}

	id := randomID()
	s.blobs[id] = &blob{job: j, step: in.StepID, summary: kind == "StepSummary"}
	place := protocol.BlobPlace{Storage: protocol.AzureBlob, SoftLimit: "2097152"}
	if kind == "StepSummary" {
		place.SummaryURL = origin(r) + "/_blobs/" + id
	} else {
		place.LogsURL = origin(r) + "/_blobs/" + id
	}
	writeJSON(w, http.StatusOK, place)
}

func (s *Server) createMetadata(w http.ResponseWriter, r *http.Request) {
	var in protocol.BlobMetadata
	if !readJSON(w, r, &in) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running(w, r) != nil {
		writeJSON(w, http.StatusOK, map[string]bool{"ok": true})
	}
}

// putBlob takes a log, each line with its time, or a summary. Its URL is the
// authorization.
func (s *Server) putBlob(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.blobs[r.PathValue("blob")]
	if err != nil || b == nil || r.Header.Get("x-ms-blob-type") != "BlockBlob" || r.Header.Get("Authorization") != "" {
		writeError(w, http.StatusBadRequest, "not a block blob that was asked for")
		return
	}
	if b.summary {
		b.job.summaries[b.step] = string(data)
		w.WriteHeader(http.StatusCreated)
		return
	}

	text, ok := strings.CutPrefix(string(data), protocol.ByteOrderMark)
	lines := []string{}
	for line := range strings.Lines(text) {
		at, line, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		_, err := time.Parse(protocol.LogTime, at)
		ok = ok && err == nil
		lines = append(lines, line)
	}
	if !ok {
		writeError(w, http.StatusBadRequest, "no byte order mark, or a line without its time")
		return
	}
	b.job.logs[b.step] = lines
	w.WriteHeader(http.StatusCreated)
}
