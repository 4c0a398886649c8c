package spec

import (
	"os"
	"strings"
	"testing"
)

func TestSetRunner(t *testing.T) {
	t.Chdir(specDirectory(t))
	const oldURL = "https://example.org/2.337.0"
	fromURL := strings.Replace(goodDocument, `path = "runner.tar.gz"`, `url = "`+oldURL+`" # 2.337.0`, 1)
	// Another image has the same runner.
	head, images, _ := strings.Cut(fromURL, "\n\n")
	other := strings.ReplaceAll(images, "image.runner", "image.other") + "\n"
	c := Component{Version: "2.338.0", URL: "https://example.org/2.338.0", SHA256: strings.Repeat("1", 64)}
	replaced := strings.NewReplacer(`version = "2.337.0"`, `version = "2.338.0"`, `"`+oldURL+`"`, `"`+c.URL+`"`,
		strings.Repeat("0", 64), c.SHA256)

	for _, test := range []struct{ summary, document, want, problem string }{
		{summary: "one image", document: fromURL, want: replaced.Replace(fromURL)},
		{summary: "second image", document: strings.Replace(fromURL, "# Images", "\ufeff# Images", 1) + other,
			want: strings.Replace(replaced.Replace(fromURL), "# Images", "\ufeff# Images", 1) + other},
		{summary: "first image stays", document: head + "\n\n" + other + images,
			want: head + "\n\n" + other + replaced.Replace(images)},
		{summary: "CR LF", document: strings.ReplaceAll(fromURL, "\n", "\r\n"),
			want: strings.ReplaceAll(replaced.Replace(fromURL), "\n", "\r\n")},
		{summary: "other quotes", document: strings.Replace(fromURL, `"2.337.0"`, `'2.337.0'`, 1),
			problem: "images.toml:21: the lines of the runner are written in an unusual way; " +
				"set version, url and sha256 by hand"},
		{summary: "from a path", document: goodDocument,
			problem: "images.toml:21: the lines of the runner are written in an unusual way; " +
				"set version, url and sha256 by hand"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if err := os.WriteFile("images.toml", []byte(test.document), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := SetRunner("images.toml", []byte(test.document), "runner", c)
			if string(got) != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
			problem := ""
			if err != nil {
				problem = err.Error()
			}
			if problem != test.problem {
				t.Errorf("got %q, want %q", problem, test.problem)
			}
		})
	}
}
