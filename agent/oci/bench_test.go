package oci_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkPull pulls an image of 2 layers, 3000 files and 60 MB, and then one
// that is in the store.
func BenchmarkPull(b *testing.B) {
	store, shop := newStoreAndShop(b)
	random := rand.NewChaCha8([32]byte{})
	var lower, upper []file
	for i := range 3000 {
		body := make([]byte, 20_000)
		_, _ = random.Read(body[:10_000])
		lower = append(lower, file{name: fmt.Sprintf("d%d/f%d", i%100, i), body: string(body)})
	}
	upper = append(upper, file{name: "upper"})
	ref := shop.push("app", newImage(b, newLayer(b, lower...), newLayer(b, upper...)))

	for _, test := range []struct {
		summary string
		cached  bool
	}{
		{summary: "new"},
		{summary: "cached", cached: true},
	} {
		b.Run(test.summary, func(b *testing.B) {
			if test.cached {
				image, err := store.Pull(b.Context(), ref, nil, func(string) {})
				if err != nil {
					b.Fatal(err)
				}
				image.Release()
			}
			for b.Loop() {
				image, err := store.Pull(b.Context(), ref, nil, func(string) {})
				if err != nil {
					b.Fatal(err)
				}
				image.Release()
				if test.cached {
					continue
				}
				b.StopTimer()
				for _, dir := range []string{"images", "refs"} {
					if err := os.RemoveAll(filepath.Join(store.Dir, dir)); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
			}
		})
	}
}
