package protocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Token is a template token, the form of what a workflow says in a job message.
// Value is nil, a bool, a float64, a string, a Sequence, a Mapping or an
// Expression.
type Token struct{ Value any }

// Sequence is a template token that lists others.
type Sequence []Token

// Mapping is a template token with keys, in the order of the workflow.
type Mapping []Pair

// Pair is one key of a Mapping.
type Pair struct {
	Key   Token `json:"Key"`
	Value Token `json:"Value"`
}

// Expression is a template token that the worker evaluates, such as github.sha.
type Expression string

// Types of template tokens that are JSON objects.
const (
	sequenceToken   = 1
	mappingToken    = 2
	expressionToken = 3
)

// MarshalJSON implements json.Marshaler.
func (t Token) MarshalJSON() ([]byte, error) {
	switch v := t.Value.(type) {
	case nil, bool, float64, string:
		return json.Marshal(v)
	case Sequence:
		return json.Marshal(struct {
			Type int      `json:"type"`
			Seq  Sequence `json:"seq"`
		}{sequenceToken, v})
	case Mapping:
		return json.Marshal(struct {
			Type int     `json:"type"`
			Map  Mapping `json:"map"`
		}{mappingToken, v})
	case Expression:
		return json.Marshal(struct {
			Type int        `json:"type"`
			Expr Expression `json:"expr"`
		}{expressionToken, v})
	}
	return nil, fmt.Errorf("cannot encode a template token of type %T", t.Value)
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Token) UnmarshalJSON(data []byte) error {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return json.Unmarshal(data, &t.Value)
	}

	var object struct {
		Type int        `json:"type"`
		Seq  Sequence   `json:"seq"`
		Map  Mapping    `json:"map"`
		Expr Expression `json:"expr"`
	}
	if err := json.Unmarshal(data, &object); err != nil {
		return err
	}
	switch object.Type {
	case sequenceToken:
		t.Value = object.Seq
	case mappingToken:
		t.Value = object.Map
	case expressionToken:
		t.Value = object.Expr
	default:
		return fmt.Errorf("template token of unknown type %d", object.Type)
	}
	return nil
}

// stringMapping returns a mapping of strings, sorted by key.
func stringMapping(m map[string]string) Mapping {
	mapping := Mapping{}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		mapping = append(mapping, pair(key, scalar(m[key])))
	}
	return mapping
}

func stringSequence(list []string) Sequence {
	sequence := Sequence{}
	for _, item := range list {
		sequence = append(sequence, scalar(item))
	}
	return sequence
}

func pair(key string, value Token) Pair { return Pair{Key: Token{key}, Value: value} }

// Data is context data, the form of what the service knows of a run. Value is
// nil, a bool, a float64, a string, a []Data or a Dictionary.
type Data struct{ Value any }

// Dictionary is context data with keys.
type Dictionary []Entry

// Entry is one key of a Dictionary.
type Entry struct {
	Key   string `json:"k"`
	Value Data   `json:"v"`
}

// Types of context data that are JSON objects.
const (
	arrayData      = 1
	dictionaryData = 2
)

// MarshalJSON implements json.Marshaler.
func (d Data) MarshalJSON() ([]byte, error) {
	switch v := d.Value.(type) {
	case []Data:
		return json.Marshal(struct {
			Type  int    `json:"t"`
			Array []Data `json:"a"`
		}{arrayData, v})
	case Dictionary:
		return json.Marshal(struct {
			Type       int        `json:"t"`
			Dictionary Dictionary `json:"d"`
		}{dictionaryData, v})
	}
	return json.Marshal(d.Value)
}

// UnmarshalJSON implements json.Unmarshaler.
func (d *Data) UnmarshalJSON(data []byte) error {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return json.Unmarshal(data, &d.Value)
	}

	var object struct {
		Type       int        `json:"t"`
		Array      []Data     `json:"a"`
		Dictionary Dictionary `json:"d"`
	}
	if err := json.Unmarshal(data, &object); err != nil {
		return err
	}
	switch object.Type {
	case arrayData:
		d.Value = object.Array
	case dictionaryData:
		d.Value = object.Dictionary
	default:
		return fmt.Errorf("context data of unknown type %d", object.Type)
	}
	return nil
}

// stringDictionary returns context data of strings, sorted by key.
func stringDictionary(m map[string]string) Data {
	dictionary := Dictionary{}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		dictionary = append(dictionary, Entry{Key: key, Value: Data{m[key]}})
	}
	return Data{dictionary}
}

// lookUp returns the value of a key, or nil.
func (d Data) lookUp(key string) Data {
	dictionary, _ := d.Value.(Dictionary)
	for _, entry := range dictionary {
		if entry.Key == key {
			return entry.Value
		}
	}
	return Data{}
}
