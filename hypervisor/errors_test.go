package hypervisor

import (
	"errors"
	"testing"
)

// A libvirtd translates its own texts, here as libvirt-l10n 9.0.0 does, and neither QEMU's nor the names of its commands.
func TestDeleteErrorInAnyLanguage(t *testing.T) {
	for _, tt := range []struct {
		code int
		text string
		may  bool
	}{
		{1, "internal error: bitmap 'check1' not found in backing chain of 'vda'", true},
		{1, "внутренняя ошибка: битовая карта «check1» не найдена в резервной цепочке «vda»", true},
		{1, "内部エラー: ビットマップ 'check1' は、'vda' のバッキングチェーンで見つかりません", true},
		{1, "внутренняя ошибка: не удалось выполнить команду QEMU «transaction»: Bitmap 'check1' is currently in use by another operation", false},
		{1, "internal error: unable to execute QEMU command 'blockdev-reopen': Block node is read-only", false},
		{38, "невозможно создать каталог", false},
	} {
		err := deleteError(&Error{Code: tt.code, Message: tt.text})
		if errors.Is(err, ErrMayLackBitmap) != tt.may {
			t.Errorf("%d %s: %v, want %v", tt.code, tt.text, !tt.may, tt.may)
		}
	}
	if err := deleteError(&Error{Kind: ErrBusy, Code: 1}); !errors.Is(err, ErrBusy) || errors.Is(err, ErrMayLackBitmap) {
		t.Errorf("a kind that is known is lost: %v", err)
	}
	if err := deleteError(nil); err != nil {
		t.Error(err)
	}
}

// A disk that cannot have a bitmap gets no hint: the backup is made without the bitmap.
func TestRefusedBitmapInAnyLanguage(t *testing.T) {
	for _, e := range []Error{
		{Code: 67, Message: "unsupported configuration: checkpoint for disk vdc unsupported for storage type raw"},
		{Code: 67, Message: "неподдерживаемая конфигурация: контрольная точка для диска vdc"},
		{Code: 1, Message: "внутренняя ошибка: «transaction»: Can't make bitmap 'check1' persistent in 'libvirt-1-format': Cannot store dirty bitmaps in qcow2 v2 files"},
	} {
		if err := beginError(&e); !errors.Is(err, ErrBitmap) {
			t.Errorf("%s: no ErrBitmap", e.Message)
		}
	}
}
