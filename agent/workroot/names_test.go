package workroot

import (
	"slices"
	"testing"
)

func TestHidden(t *testing.T) {
	for work, want := range map[string][]string{
		".": {"_temp/_runner_hook_responses", "_update"}, "_temp": {"_runner_hook_responses"}, "_temp/_github_home": nil, "repo": nil, "_temporary": nil,
	} {
		if got := HiddenBeneath(work); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", work, got, want)
		}
	}
	for work, ok := range map[string]bool{".": true, "_temp": true, "_updates": true, "_update": false, "_temp/x/../_runner_hook_responses": false, "_update/a": false} {
		if err := CheckHidden(work); (err == nil) != ok {
			t.Errorf("%s: got %v, want allowed %v", work, err, ok)
		}
	}
}
