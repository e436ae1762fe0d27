package facts

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Rollback is the last time that STRICT was taken back, as the PeerAuthentication itself says it: written with the mode, so
// that neither is there without the other, whatever becomes of status.
type Rollback struct {
	// Generation of the profile's spec then.
	Generation int64 `json:"generation"`
	// Attempts of that generation that had ended so, this one included.
	Attempts int32 `json:"attempts"`
	// Time of the rollback.
	Time time.Time `json:"time"`
}

// String writes the rollback for an annotation.
func (r Rollback) String() string {
	r.Time = r.Time.UTC()
	text, err := json.Marshal(r)
	if err != nil {
		return "" // a year that RFC 3339 does not have; as good as none
	}
	return string(text)
}

// ParseRollback reads what String wrote. It fails on anything that no rollback is.
func ParseRollback(text string) (Rollback, error) {
	var r Rollback
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return Rollback{}, fmt.Errorf("parsing rollback: %w", err)
	}
	if r.Generation < 1 || r.Attempts < 1 || r.Time.IsZero() {
		return Rollback{}, errors.New("parsing rollback: generation, attempts and time must be there")
	}
	return r, nil
}
