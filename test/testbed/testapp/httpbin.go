package testapp

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

const (
	maxBody  = 1 << 20
	maxDelay = 10 * time.Minute
)

// Handler answers /headers, /ip, /user-agent, /status/N, /delay/SECONDS, and everything else with what it was asked.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{"headers": headers(r)})
	})
	mux.HandleFunc("/ip", func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		answer(w, map[string]any{"origin": host})
	})
	mux.HandleFunc("/user-agent", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{"user-agent": r.UserAgent()})
	})
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.PathValue("code"))
		if err != nil || code < 200 || code > 999 {
			http.Error(w, "a status is a number from 200 to 999", http.StatusBadRequest)
			return
		}
		w.WriteHeader(code)
	})
	mux.HandleFunc("/delay/{seconds}", func(w http.ResponseWriter, r *http.Request) {
		seconds, err := strconv.ParseFloat(r.PathValue("seconds"), 64)
		if err != nil {
			http.Error(w, "a delay is a number of seconds", http.StatusBadRequest)
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(min(time.Duration(seconds*float64(time.Second)), maxDelay)):
		}
		echoRequest(w, r)
	})
	mux.HandleFunc("/", echoRequest)
	return mux
}

func echoRequest(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	answer(w, map[string]any{
		"hostname": host, "method": r.Method, "url": r.URL.String(), "headers": headers(r), "data": string(body),
	})
}

func headers(r *http.Request) map[string]string {
	all := flatten(r.Header)
	all["Host"] = r.Host
	return all
}

func answer(w http.ResponseWriter, content map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(content) // the caller may have gone
}
