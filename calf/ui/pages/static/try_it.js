// Vue's part of the page: it gives an element to what is plain JavaScript.
import { TryIt } from "calf-try-it";

export default {
  props: { options: Object },
  template: '<div class="calf-try"></div>',
  mounted() {
    this.page = new TryIt(this.$el, this.options);
  },
  unmounted() {
    this.page.close();
  },
};
