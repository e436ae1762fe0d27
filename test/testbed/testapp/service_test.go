package testapp

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestPartsSayWhatCame(t *testing.T) {
	leaf := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer token" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte("RBAC: access denied")) // a recorder's writes do not fail
			return
		}
		_ = json.NewEncoder(w).Encode(Page{Service: "reviews", Parts: []Part{{Name: "ratings", Status: http.StatusOK, Page: &Page{Service: "ratings"}}}}) // nor do these
	}))
	defer leaf.Close()
	t.Setenv("LEAF", leaf.URL)
	var upstreams calls
	for _, text := range []string{"reviews=$LEAF/reviews/0", "nobody=http://127.0.0.1:1/"} {
		if err := upstreams.Set(text); err != nil {
			t.Fatal(err)
		}
	}
	if upstreams.Set("reviews") == nil {
		t.Error("a call without a URL passed")
	}
	page := Page{Parts: upstreams.ask(t.Context(), http.DefaultClient, http.Header{"Authorization": {"Bearer token"}})}
	if got := page.Find("ratings"); got == nil || got.Status != http.StatusOK || got.Page.Service != "ratings" {
		t.Errorf("got %+v", got)
	}
	if got := page.Find("nobody"); got == nil || got.Status != 0 || got.Text == "" {
		t.Errorf("got %+v", got)
	}
	if got := page.Find("details"); got != nil {
		t.Errorf("got %+v", got)
	}
	page = Page{Parts: upstreams.ask(t.Context(), http.DefaultClient, nil)}
	if got := page.Find("reviews"); got.Status != http.StatusForbidden || got.Text != "RBAC: access denied" || got.Page != nil {
		t.Errorf("got %+v", got)
	}
}
